//! `y = x W^T` as one product of two matrices, its gradients as two more; nothing is transposed in memory.

use burn_flex::FlexTensor;

use super::{
    product::{Matrix, product},
    tensors::{Gradients, dense, sizes, tensor, values},
};

pub(crate) type Kept = (FlexTensor, FlexTensor);

pub(crate) fn forward(x_ni: FlexTensor, weight_oi: FlexTensor) -> (FlexTensor, Kept) {
    let (x_ni, weight_oi) = (dense(x_ni), dense(weight_oi));
    let ([n, i], [o, width]) = (sizes(&x_ni), sizes(&weight_oi));
    assert_eq!(i, width, "a linear layer of {width} inputs was given {i}");
    let y_no = product(Matrix::new(values(&x_ni), n, i), Matrix::new(values(&weight_oi), o, i).transposed());
    (tensor(y_no, [n, o]), (x_ni, weight_oi))
}

pub(crate) fn backward((x_ni, weight_oi): Kept, dy_no: FlexTensor, wanted: [bool; 2]) -> Gradients<2> {
    let dy_no = dense(dy_no);
    let ([n, i], [o, _]) = (sizes(&x_ni), sizes(&weight_oi));
    let dy = Matrix::new(values(&dy_no), n, o);
    let dx = || tensor(product(dy, Matrix::new(values(&weight_oi), o, i)), [n, i]);
    let dw = || tensor(product(dy.transposed(), Matrix::new(values(&x_ni), n, i)), [o, i]);
    [wanted[0].then(dx), wanted[1].then(dw)]
}
