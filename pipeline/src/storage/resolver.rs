//! Addresses of stores, and how their paths are shown.

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::list::PaginatedListStore;
use object_store::path::Path;

use crate::host::error::BoxError;

/// Turns an address into a store and a path in it. The path may hold glob characters, unescaped.
pub trait Resolver: Send + Sync {
    /// Opens the store of `uri`.
    ///
    /// # Errors
    ///
    /// If the address is of no known kind or the store can't be set up.
    fn resolve(&self, uri: &str) -> Result<(Arc<dyn ObjectStore>, Path), BoxError>;

    /// The same store by single pages of its list, where it has such: a list of many keys fails as a whole where one of
    /// them can't be a path, and is then asked for around that key.
    fn pages(&self, _uri: &str) -> Option<Arc<dyn PaginatedListStore>> {
        None
    }
}

/// A path of a store as a person writes it.
pub(crate) fn shown(store: &dyn ObjectStore, path: &Path) -> String {
    if store.to_string() == "LocalFileSystem(file:///)" { format!("/{path}") } else { path.to_string() }
}
