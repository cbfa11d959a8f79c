//! URIs to object stores, credentials included.
//!
//! Plain paths and `file://` lead to the disk, `s3://bucket/path`, `gs://bucket/path` and `az://container/path` to
//! clouds, `https://` to exactly one address. Credentials come from the usual environment variables and, for AWS,
//! from the profile files ([`aws`]); they are never read from a config and never printed.

mod aws;
mod explain;
mod output;
mod secrets;
mod write;

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Component, Path as FsPath, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::{Context, anyhow};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorage, GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::http::HttpBuilder;
use object_store::list::PaginatedListStore;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ClientConfigKey, ClientOptions, ObjectStore, ObjectStoreExt, RetryConfig};
use schemas::address;
use url::Url;

use crate::errors::hinted;

pub(crate) use explain::explain;
pub(crate) use output::{local_file, local_folder, local_input, write_file};
pub(crate) use secrets::{refuse_in_arguments, refuse_in_table};

/// A place in a store.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The store.
    pub(crate) store: Arc<dyn ObjectStore>,
    /// The path in it; may be a glob where a source's URI may.
    pub(crate) path: Path,
    /// The path on disk, where the store is the disk.
    pub(crate) local: Option<PathBuf>,
    /// The URI as it was written, for messages.
    pub(crate) uri: String,
}

impl Place {
    /// The place `name` below this one.
    pub(crate) fn join(&self, name: &str) -> Self {
        let path = name.split('/').fold(self.path.clone(), |path, part| path.join(part));
        let local = self.local.as_ref().map(|local| local.join(name));
        let uri = format!("{}/{name}", self.uri.trim_end_matches('/'));
        Self { store: self.store.clone(), path, local, uri }
    }

    /// All bytes of the object.
    pub(crate) async fn read(&self) -> anyhow::Result<bytes::Bytes> {
        let bytes = async { self.store.get(&self.path).await?.bytes().await };
        bytes.await.with_context(|| format!("cannot read `{}`", self.uri))
    }

    /// All bytes of the object, `None` if there is none.
    pub(crate) async fn read_if_there(&self) -> anyhow::Result<Option<bytes::Bytes>> {
        match self.read().await {
            Err(error) if is_absent(&error) => Ok(None),
            other => other.map(Some),
        }
    }
}

/// Whether the object is not there, or a folder stands in its place. A missing bucket is another matter.
fn is_absent(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| match cause.downcast_ref::<object_store::Error>() {
        Some(cause @ object_store::Error::NotFound { .. }) => !cause.to_string().contains("NoSuchBucket"),
        Some(cause) => explain::is_folder(cause),
        None => false,
    })
}

/// The stores in use, one a bucket.
#[derive(Debug, Default)]
pub(crate) struct Stores {
    known: Mutex<HashMap<String, Arc<dyn ObjectStore>>>,
}

impl Stores {
    /// The place that a URI names.
    ///
    /// # Errors
    ///
    /// If the scheme is unknown, the URI is malformed, or credentials can't be found.
    pub(crate) fn place(&self, uri: &str) -> anyhow::Result<Place> {
        if address::carries_secret(uri) {
            return Err(secrets::refused(&format!("the address `{}`", address::shown(uri))));
        }
        match uri.split_once("://") {
            None => local(uri, uri),
            Some((scheme, path)) if scheme.eq_ignore_ascii_case("file") => {
                local(path.strip_prefix("localhost").unwrap_or(path), uri)
            }
            Some((scheme, _)) => self.remote(&scheme.to_ascii_lowercase(), uri),
        }
    }

    fn remote(&self, scheme: &str, uri: &str) -> anyhow::Result<Place> {
        let is_web = scheme.starts_with("http");
        // Elsewhere `?` and `#` stand in names and globs.
        let escaped = if is_web { uri.to_owned() } else { uri.replace('?', "%3F").replace('#', "%23") };
        let url = Url::parse(&escaped).with_context(|| format!("`{}` is not a URI", address::shown(uri)))?;
        let host = url.host_str().filter(|host| !host.is_empty());
        let host = host.ok_or_else(|| anyhow!("`{uri}` names no bucket"))?;
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        let root = format!("{scheme}://{host}{port}");
        // `Url` percent-encodes the path; the path as written is what a store knows. An address of the web has been
        // encoded by whoever wrote it.
        let path = uri[scheme.len() + 3..].split_once('/').map_or("", |(_, path)| path);
        let path = if is_web { Path::from_url_path(path) } else { Path::parse(path) };
        let path = path.with_context(|| format!("`{uri}` has a path that no store has"))?;
        let store = self.store(&root, || open(scheme, host, &root))?;
        Ok(Place { store, path, local: None, uri: uri.to_owned() })
    }

    /// The bucket of a URI by single pages of its list, where its store can be asked for such from any key on.
    pub(crate) fn pages_of(&self, uri: &str) -> Option<Arc<dyn PaginatedListStore>> {
        let (scheme, behind) = uri.split_once("://")?;
        let bucket = behind.split('/').next()?;
        match scheme.to_ascii_lowercase().as_str() {
            "s3" | "s3a" => Some(aws::open(bucket).ok()?),
            "gs" => Some(Arc::new(open_google(bucket).ok()?)),
            _ => None,
        }
    }

    fn store(
        &self,
        root: &str,
        open: impl FnOnce() -> anyhow::Result<Arc<dyn ObjectStore>>,
    ) -> anyhow::Result<Arc<dyn ObjectStore>> {
        let mut known = self.known.lock().expect("no holder of this lock panics");
        if let Some(store) = known.get(root) {
            return Ok(store.clone());
        }
        let store = open()?;
        known.insert(root.to_owned(), store.clone());
        Ok(store)
    }
}

fn open(scheme: &str, host: &str, root: &str) -> anyhow::Result<Arc<dyn ObjectStore>> {
    let failed = || format!("cannot open `{root}`");
    match scheme {
        "s3" | "s3a" => Ok(aws::open(host).with_context(failed)?),
        "gs" => {
            check_endpoint("GOOGLE_BASE_URL", std::env::var("GOOGLE_BASE_URL").ok().as_deref())?;
            Ok(Arc::new(open_google(host).with_context(failed)?))
        }
        "az" | "abfs" => {
            for name in ["AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"] {
                check_endpoint(name, std::env::var(name).ok().as_deref())?;
            }
            let mut builder = MicrosoftAzureBuilder::from_env().with_container_name(host).with_retry(retry());
            if std::env::var_os("AZURE_TIMEOUT").is_none() {
                builder = builder.with_config(AzureConfigKey::Client(ClientConfigKey::Timeout), TIMEOUT);
            }
            let store = builder.build().with_context(failed);
            Ok(Arc::new(store.map_err(|error| {
                hinted(
                    error,
                    "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY (or another credential)",
                )
            })?))
        }
        "http" | "https" => {
            let options = ClientOptions::new()
                .with_config(ClientConfigKey::Timeout, TIMEOUT)
                .with_allow_http(scheme == "http");
            let builder = HttpBuilder::new().with_url(root).with_retry(retry()).with_client_options(options);
            Ok(Arc::new(builder.build().with_context(failed)?))
        }
        _ => Err(hinted(
            anyhow!("`{root}` has a scheme that is not known: `{scheme}`"),
            "known are s3://, gs://, az://, https://, file:// and plain paths",
        )),
    }
}

fn open_google(bucket: &str) -> object_store::Result<GoogleCloudStorage> {
    let mut builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(bucket).with_retry(retry());
    if std::env::var_os("GOOGLE_TIMEOUT").is_none() {
        builder = builder.with_config(GoogleConfigKey::Client(ClientConfigKey::Timeout), TIMEOUT);
    }
    builder.build()
}

/// Refuses what is no address of a server, of which the library below would panic, and one that carries a secret.
fn check_endpoint(name: &str, value: Option<&str>) -> anyhow::Result<()> {
    let Some(value) = value.filter(|value| !value.is_empty()) else { return Ok(()) };
    if address::carries_secret(value) {
        return Err(hinted(
            anyhow!(
                "`{name}` is `{}`: a server's address with a user, a password or a query",
                address::shown(value)
            ),
            "give the address alone; credentials have variables of their own",
        ));
    }
    let is_address = |url: Url| {
        ["http", "https"].contains(&url.scheme()) && url.host_str().is_some_and(|host| !host.is_empty())
    };
    if Url::parse(value).is_ok_and(is_address) {
        return Ok(());
    }
    Err(hinted(
        anyhow!("`{name}` is `{value}`, which is no address of a server"),
        format!("write it with its scheme: {name}=http://{}", value.rsplit("://").next().unwrap_or(value)),
    ))
}

/// Ten tries within three minutes, waiting longer from one to the next, with jitter.
fn retry() -> RetryConfig {
    RetryConfig::default()
}

/// What a request may take unless the environment says otherwise: a shard has up to 256 MB, and links are slow somewhere.
const TIMEOUT: &str = "300 seconds";

fn local(path: &str, uri: &str) -> anyhow::Result<Place> {
    let path = expand_home(path)?;
    let file = resolve(FsPath::new(&*path)).with_context(|| format!("cannot find the place of `{uri}`"))?;
    let text = file.to_str().ok_or_else(|| anyhow!("`{uri}` has a path that is not UTF-8"))?;
    let path = Path::parse(text.trim_matches('/'))
        .with_context(|| format!("`{uri}` has a path that no store has"))?;
    Ok(Place { store: Arc::new(LocalFileSystem::new()), path, local: Some(file), uri: uri.to_owned() })
}

/// A path with `~` written out as the user's home, as a shell does.
///
/// # Errors
///
/// If it begins with another user's home, or the environment names no home.
pub(crate) fn expand_home(path: &str) -> anyhow::Result<Cow<'_, str>> {
    expand(path, std::env::var("HOME").ok().filter(|home| !home.is_empty()))
}

fn expand(path: &str, home: Option<String>) -> anyhow::Result<Cow<'_, str>> {
    let Some(rest) = path.strip_prefix('~') else { return Ok(Cow::Borrowed(path)) };
    let hint = "write the folder out; a file whose own name begins with `~` is `./~...`";
    if !rest.is_empty() && !rest.starts_with('/') {
        let user = path.split('/').next().unwrap_or(path);
        return Err(hinted(anyhow!("`{path}` begins with `{user}`, and only `~/` is known as a home"), hint));
    }
    let home =
        home.ok_or_else(|| hinted(anyhow!("`{path}` is in a home, and the variable HOME names none"), hint))?;
    Ok(Cow::Owned(format!("{}{rest}", home.trim_end_matches('/'))))
}

/// The absolute path. Object stores know no `..`, so the longest part that exists is resolved as the system does.
fn resolve(path: &FsPath) -> std::io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    if !absolute.components().any(|part| part == Component::ParentDir) {
        return Ok(absolute);
    }
    let mut parts = absolute.components();
    let mut behind = Vec::new();
    loop {
        if let Ok(found) = parts.as_path().canonicalize() {
            return Ok(behind.iter().rev().fold(found, append));
        }
        match parts.next_back() {
            Some(part) => behind.push(part),
            None => return Ok(absolute),
        }
    }
}

fn append(mut path: PathBuf, part: &Component<'_>) -> PathBuf {
    match part {
        Component::ParentDir => {
            path.pop();
        }
        part => path.push(part),
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_paths_and_file_uris_lead_to_the_disk() {
        let stores = Stores::default();
        let here = std::env::current_dir().unwrap();
        let place = stores.place("out/samples").unwrap();
        assert_eq!(place.local.as_deref(), Some(here.join("out/samples").as_path()));
        assert_eq!(stores.place("file:///data/x").unwrap().path.as_ref(), "data/x");
        assert_eq!(stores.place("/data/x/").unwrap().path.as_ref(), "data/x");
        assert_eq!(stores.place("/nowhere/a/../b").unwrap().path.as_ref(), "nowhere/b");
    }

    #[test]
    fn globs_and_foreign_names_stay_as_written() {
        let stores = Stores::default();
        assert_eq!(stores.place("/data/*.tar").unwrap().path.as_ref(), "data/*.tar");
        assert_eq!(stores.place("/data/häuser 1.txt").unwrap().path.as_ref(), "data/häuser 1.txt");
    }

    #[test]
    fn places_join() {
        let place = Stores::default().place("/data").unwrap().join("shards/a.arrow");
        assert_eq!(place.path.as_ref(), "data/shards/a.arrow");
        assert_eq!(place.local.unwrap(), FsPath::new("/data/shards/a.arrow"));
        assert_eq!(place.uri, "/data/shards/a.arrow");
    }

    #[test]
    fn stores_know_globs_and_schemes_in_any_letters() {
        let stores = Stores::default();
        assert_eq!(stores.place("FILE:///data/x").unwrap().path.as_ref(), "data/x");
        let place = stores.place("HTTPS://example.org/x").unwrap();
        assert_eq!(place.path.as_ref(), "x");
        // Only S3 asks for credentials before anything is asked of it.
        assert_eq!(stores.place("gs://bucket/qu?/#1 a=b.jsonl").unwrap().path.as_ref(), "qu?/#1 a=b.jsonl");
        let error = format!("{:#}", stores.place("s3://bucket/a?b=c").unwrap_err());
        assert!(error.contains("a query"), "{error}");
    }

    #[test]
    fn a_home_is_written_out() {
        let home = || Some("/home/me".to_owned());
        assert_eq!(expand("~/data/*.jsonl", home()).unwrap(), "/home/me/data/*.jsonl");
        assert_eq!(expand("~", home()).unwrap(), "/home/me");
        assert_eq!(expand("./~/x", home()).unwrap(), "./~/x");
        assert_eq!(expand("a~/x", None).unwrap(), "a~/x");
        assert!(expand("~you/x", home()).unwrap_err().to_string().contains("begins with `~you`"));
        assert!(expand("~/x", None).unwrap_err().to_string().contains("HOME"));
    }

    #[test]
    fn an_endpoint_without_a_scheme_is_refused() {
        for wrong in ["localhost:9000", "notaurl", "ftp://host", "http://"] {
            let error = check_endpoint("AWS_ENDPOINT_URL", Some(wrong)).unwrap_err();
            assert!(format!("{error}").contains(wrong), "{error}");
        }
        for right in ["http://localhost:9000", "https://s3.example.org", ""] {
            check_endpoint("AWS_ENDPOINT_URL", Some(right)).unwrap();
        }
    }

    #[test]
    fn https_is_one_exact_address() {
        let place = Stores::default().place("https://example.org:8443/a/b.arrow").unwrap();
        assert_eq!(place.path.as_ref(), "a/b.arrow");
        for written in
            ["https://example.org/trip%20data/%C3%BC.jsonl", "https://example.org/trip data/ü.jsonl"]
        {
            assert_eq!(Stores::default().place(written).unwrap().path.as_ref(), "trip data/ü.jsonl");
        }
    }

    #[test]
    fn what_is_no_uri_is_refused_without_showing_secrets() {
        let cases = [
            ("ftp://host/x", "scheme"),
            ("s3:///x", "no bucket"),
            ("https://me:secret@host/x", "a user, a password"),
            ("https://host/x?signature=secret", "query"),
        ];
        for (uri, expected) in cases {
            let error = format!("{:#}", Stores::default().place(uri).unwrap_err());
            assert!(error.contains(expected), "{uri}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
