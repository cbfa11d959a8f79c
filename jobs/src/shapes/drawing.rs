//! Pictures of shapes by signed distances, 32 x 32 pixels.
//!
//! Edges are anti-aliased: a pixel is covered by half a pixel minus the distance of its centre to the edge, clamped to
//! 0..1.

use std::f32::consts::PI;

use super::scene::{BACKGROUND, Shape, Thing};

/// Side of a picture in pixels.
pub(crate) const SIDE: usize = 32;

/// A picture: `SIDE` x `SIDE` x 3 values of 0..1, row, column, channel.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Picture(pub(crate) Vec<f32>);

/// A thing at its place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placed {
    pub(crate) thing: Thing,
    pub(crate) radius: f32,
    /// Its centre (x, y) in pixels from the upper left corner; pixel (0, 0) has its centre at (0.5, 0.5).
    pub(crate) centre: [f32; 2],
}

/// Room between a centre and the edge of the picture: the widest shape's reach and half a pixel.
pub(super) fn margin(radius: f32) -> f32 {
    1.35 * radius + 0.5
}

/// Draws things over the background, later ones over earlier ones.
pub(crate) fn draw(things: &[Placed]) -> Picture {
    Picture(render(things, 1))
}

/// The values of a picture of `zoom * SIDE` pixels each way, row, column, channel.
pub(super) fn render(things: &[Placed], zoom: usize) -> Vec<f32> {
    let outlines: Vec<Outline> =
        things.iter().map(|placed| Outline::new(placed.thing.shape, placed.radius)).collect();
    let (side, scale) = (zoom * SIDE, zoom as f32);
    let mut values = Vec::with_capacity(side * side * 3);
    for pixel in 0..side * side {
        let (x, y) = (((pixel % side) as f32 + 0.5) / scale, ((pixel / side) as f32 + 0.5) / scale);
        let mut colour = BACKGROUND;
        for (placed, outline) in things.iter().zip(&outlines) {
            let point = [x - placed.centre[0], y - placed.centre[1]];
            if point.iter().any(|off| off.abs() > margin(placed.radius)) {
                continue;
            }
            let cover = outline.coverage(point, scale);
            if cover > 0.0 {
                let over = placed.thing.colour.rgb();
                colour =
                    std::array::from_fn(|channel| (1.0 - cover) * colour[channel] + cover * over[channel]);
            }
        }
        values.extend(colour);
    }
    values
}

impl Picture {
    /// As bytes, rounded.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        to_bytes(&self.0)
    }

    /// From bytes, row, column, channel.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        Self(bytes.iter().map(|&byte| f32::from(byte) / 255.0).collect())
    }

    pub(crate) fn png(&self) -> Vec<u8> {
        png(&self.bytes(), SIDE, SIDE)
    }
}

/// Values of 0..1 as bytes, rounded.
pub(super) fn to_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().map(|value| (value.clamp(0.0, 1.0) * 255.0).round() as u8).collect()
}

/// A PNG file of `width` x `height` RGB bytes.
pub(crate) fn png(rgb: &[u8], width: usize, height: usize) -> Vec<u8> {
    use image::ImageEncoder;
    use image::codecs::png::{CompressionType, FilterType, PngEncoder};
    let mut file = Vec::new();
    PngEncoder::new_with_quality(&mut file, CompressionType::Fast, FilterType::Sub)
        .write_image(rgb, width as u32, height as u32, image::ExtendedColorType::Rgb8)
        .expect("a buffer of the picture's own size is encoded into memory");
    file
}

/// The outline of a shape around its centre.
#[derive(Clone, Debug)]
pub(crate) enum Outline {
    Circle { radius: f32 },
    Polygon { corners: Vec<[f32; 2]> },
}

impl Outline {
    /// The outline of a shape whose radius is `radius`.
    pub(crate) fn new(shape: Shape, radius: f32) -> Self {
        match shape {
            Shape::Circle => Self::Circle { radius },
            Shape::Square => {
                let half = 0.9 * radius;
                Self::Polygon { corners: vec![[-half, -half], [half, -half], [half, half], [-half, half]] }
            }
            Shape::Triangle => Self::Polygon { corners: ring(&[1.3 * radius; 3]) },
            Shape::Star => {
                let (outer, inner) = (1.35 * radius, 0.5 * 1.35 * radius);
                let radii: Vec<f32> =
                    (0..10).map(|corner| if corner % 2 == 0 { outer } else { inner }).collect();
                Self::Polygon { corners: ring(&radii) }
            }
        }
    }

    /// How much of the pixel whose centre is at `point` is covered, 0..1; `scale` pixels are one unit long.
    pub(crate) fn coverage(&self, point: [f32; 2], scale: f32) -> f32 {
        (0.5 - scale * self.distance(point)).clamp(0.0, 1.0)
    }

    /// Distance to the edge, negative inside.
    fn distance(&self, point: [f32; 2]) -> f32 {
        match self {
            Self::Circle { radius } => point[0].hypot(point[1]) - radius,
            Self::Polygon { corners } => polygon_distance(corners, point),
        }
    }

    /// The area inside.
    pub(crate) fn area(&self) -> f32 {
        match self {
            Self::Circle { radius } => PI * radius * radius,
            Self::Polygon { corners } => {
                let doubled: f32 = edges(corners).map(|(a, b)| a[0] * b[1] - b[0] * a[1]).sum();
                doubled.abs() / 2.0
            }
        }
    }
}

/// Corners at equal angles, the first upwards (y grows downwards).
fn ring(radii: &[f32]) -> Vec<[f32; 2]> {
    let corner = |(place, radius): (usize, &f32)| {
        let angle = 2.0 * PI * place as f32 / radii.len() as f32;
        [radius * angle.sin(), -radius * angle.cos()]
    };
    radii.iter().enumerate().map(corner).collect()
}

fn edges(corners: &[[f32; 2]]) -> impl Iterator<Item = ([f32; 2], [f32; 2])> {
    (0..corners.len()).map(|corner| (corners[corner], corners[(corner + 1) % corners.len()]))
}

/// Exact signed distance to a simple polygon: the nearest edge, and the parity of crossings for the sign.
fn polygon_distance(corners: &[[f32; 2]], point: [f32; 2]) -> f32 {
    let mut nearest = f32::INFINITY;
    let mut inside = false;
    for (a, b) in edges(corners) {
        let (edge, to_point) = ([b[0] - a[0], b[1] - a[1]], [point[0] - a[0], point[1] - a[1]]);
        let along = (to_point[0] * edge[0] + to_point[1] * edge[1]) / (edge[0] * edge[0] + edge[1] * edge[1]);
        let along = along.clamp(0.0, 1.0);
        let off = [to_point[0] - along * edge[0], to_point[1] - along * edge[1]];
        nearest = nearest.min(off[0] * off[0] + off[1] * off[1]);
        if (a[1] > point[1]) != (b[1] > point[1]) && point[0] < a[0] + (point[1] - a[1]) / edge[1] * edge[0] {
            inside = !inside;
        }
    }
    if inside { -nearest.sqrt() } else { nearest.sqrt() }
}

#[cfg(test)]
mod tests {
    use super::super::scene::Colour;
    use super::*;

    #[test]
    fn coverage_adds_up_to_the_area() {
        for shape in Shape::ALL {
            for radius in [5.0, 8.0] {
                let outline = Outline::new(shape, radius);
                let mut covered = 0.0;
                for pixel in 0..SIDE * SIDE {
                    let (x, y) = ((pixel % SIDE) as f32 - 15.3, (pixel / SIDE) as f32 - 15.8);
                    covered += outline.coverage([x, y], 1.0);
                }
                // Corners are rounded off by the half pixel: 6 % at most, for the star of radius 5.
                let ratio = covered / outline.area();
                assert!((0.94..1.06).contains(&ratio), "{shape:?} {radius}: {ratio}");
            }
        }
    }

    #[test]
    fn a_square_has_the_colour_inside_and_the_background_outside() {
        let thing = Thing::new(Colour::Blue, Shape::Square);
        let picture = draw(&[Placed { thing, radius: 5.0, centre: [16.0, 16.0] }]);
        let at = |x: usize, y: usize| &picture.0[(y * SIDE + x) * 3..][..3];
        assert_eq!(at(16, 16), Colour::Blue.rgb());
        assert_eq!(at(12, 12), Colour::Blue.rgb());
        assert_eq!(at(10, 16), BACKGROUND);
        let expected: Vec<f32> = (0..3).map(|c| (BACKGROUND[c] + Colour::Blue.rgb()[c]) / 2.0).collect();
        // The half-side is 4.5, so the column at 11.0..12.0 is covered by half: its centre is on the edge.
        assert!(at(11, 16).iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-6));
    }
}
