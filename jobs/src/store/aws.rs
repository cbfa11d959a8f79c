//! AWS: the environment first, then the profile files.
//!
//! object_store reads the environment but no profiles, so static keys, region and endpoint of `~/.aws/config` and
//! `~/.aws/credentials` are read here. Single sign-on, roles and credential programs are not: they get an error that
//! says how to turn them into environment variables.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use object_store::ClientConfigKey;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};

use crate::errors::hinted;

/// A variable of the environment, empty ones taken as unset.
type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What the profile files add to the environment.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Profile {
    access_key: Option<String>,
    secret_key: Option<String>,
    token: Option<String>,
    region: Option<String>,
    endpoint: Option<String>,
}

/// Opens a bucket.
pub(super) fn open(bucket: &str) -> anyhow::Result<Arc<AmazonS3>> {
    let environment = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let (config, credentials) =
        (read_file(&environment, "AWS_CONFIG_FILE", "config")?, read_credentials(&environment)?);
    let profile = Profile::read(&environment, config.as_deref(), credentials.as_deref())?;
    if profile.access_key.is_none() && !finds_credentials(&environment) {
        return Err(no_credentials());
    }
    for name in ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"] {
        super::check_endpoint(name, environment(name).as_deref())?;
    }
    super::check_endpoint("endpoint_url", profile.endpoint.as_deref())?;
    let builder = AmazonS3Builder::new()
        .with_config(AmazonS3ConfigKey::Client(ClientConfigKey::Timeout), super::TIMEOUT)
        .with_conditional_put(S3ConditionalPut::ETagMatch);
    // What is not UTF-8 is none of ours.
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let builder = with_variables(builder, variables).with_bucket_name(bucket).with_retry(super::retry());
    Ok(Arc::new(profile.apply(builder).build()?))
}

/// Takes the `AWS_` variables that are set. The builder's own `from_env` fails of empty ones.
fn with_variables(
    builder: AmazonS3Builder,
    variables: impl Iterator<Item = (String, String)>,
) -> AmazonS3Builder {
    let wanted = variables.filter(|(name, value)| name.starts_with("AWS_") && !value.is_empty());
    wanted.fold(builder, |builder, (name, value)| match name.to_ascii_lowercase().parse() {
        Ok(key) => builder.with_config(key, value),
        Err(_) => builder,
    })
}

fn read_credentials(environment: Environment<'_>) -> anyhow::Result<Option<String>> {
    read_file(environment, "AWS_SHARED_CREDENTIALS_FILE", "credentials")
}

fn read_file(environment: Environment<'_>, variable: &str, name: &str) -> anyhow::Result<Option<String>> {
    let home = || environment("HOME").map(|home| PathBuf::from(home).join(".aws").join(name));
    let Some(path) = environment(variable).map(PathBuf::from).or_else(home) else { return Ok(None) };
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read `{}`", path.display())),
    }
}

/// Whether object_store will find credentials of its own: keys, a web identity, a container's role, an instance's.
fn finds_credentials(environment: Environment<'_>) -> bool {
    const SIGNS: [&str; 5] = [
        "AWS_ACCESS_KEY_ID",
        "AWS_SKIP_SIGNATURE",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    ];
    SIGNS.iter().any(|name| environment(name).is_some()) || on_instance(environment)
}

/// Whether an instance's metadata service answers. Asked first, because waiting for one that isn't there takes
/// minutes.
fn on_instance(environment: Environment<'_>) -> bool {
    if environment("AWS_EC2_METADATA_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return false;
    }
    let endpoint =
        environment("AWS_METADATA_ENDPOINT").unwrap_or_else(|| "http://169.254.169.254".to_owned());
    let address = url::Url::parse(&endpoint).ok().and_then(|url| url.socket_addrs(|| Some(80)).ok());
    let address = address.and_then(|addresses| addresses.first().copied());
    address
        .is_some_and(|address| std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok())
}

fn no_credentials() -> anyhow::Error {
    hinted(
        anyhow!("no AWS credentials were found"),
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; a public bucket needs AWS_SKIP_SIGNATURE=true",
    )
}

impl Profile {
    /// Reads the profile that `AWS_PROFILE` names (`default` if unset).
    fn read(
        environment: Environment<'_>,
        config: Option<&str>,
        credentials: Option<&str>,
    ) -> anyhow::Result<Self> {
        let named = environment("AWS_PROFILE").or_else(|| environment("AWS_DEFAULT_PROFILE"));
        let name = named.clone().unwrap_or_else(|| "default".to_owned());
        let config = config.map(sections).unwrap_or_default();
        let credentials = credentials.map(sections).unwrap_or_default();
        let long = format!("profile {name}");
        let in_config = config.get(&long).or_else(|| config.get(&name));
        let in_credentials = credentials.get(&name);
        if named.is_some() && in_config.is_none() && in_credentials.is_none() {
            return Err(hinted(
                anyhow!("AWS profile `{name}` is in neither profile file"),
                "check AWS_PROFILE against `~/.aws/config` and `~/.aws/credentials`",
            ));
        }
        let key = |key: &str| {
            in_credentials.and_then(|s| s.get(key)).or_else(|| in_config.and_then(|s| s.get(key))).cloned()
        };
        let service =
            key("services").and_then(|services| config.get(&format!("services {services}")).cloned());
        let service_endpoint = service.and_then(|service| service.get("s3.endpoint_url").cloned());
        let profile = Self {
            access_key: key("aws_access_key_id"),
            secret_key: key("aws_secret_access_key"),
            token: key("aws_session_token"),
            region: key("region"),
            endpoint: service_endpoint.or_else(|| key("endpoint_url")),
        };
        if profile.access_key.is_none() && environment("AWS_ACCESS_KEY_ID").is_none() {
            refuse_dynamic(&name, &key)?;
        }
        Ok(profile)
    }

    /// Adds what the environment has not said.
    fn apply(self, builder: AmazonS3Builder) -> AmazonS3Builder {
        let set = |builder: AmazonS3Builder, key: AmazonS3ConfigKey, value: Option<String>| match value {
            Some(value) if builder.get_config_value(&key).is_none() => builder.with_config(key, value),
            _ => builder,
        };
        let keyless = builder.get_config_value(&AmazonS3ConfigKey::AccessKeyId).is_none();
        // Keys travel together: a secret of the file never goes with a key of the environment.
        let builder = match keyless {
            true => [
                (AmazonS3ConfigKey::AccessKeyId, self.access_key),
                (AmazonS3ConfigKey::SecretAccessKey, self.secret_key),
                (AmazonS3ConfigKey::Token, self.token),
            ]
            .into_iter()
            .fold(builder, |builder, (key, value)| set(builder, key, value)),
            false => builder,
        };
        let builder = set(builder, AmazonS3ConfigKey::Region, self.region);
        match builder.get_config_value(&AmazonS3ConfigKey::S3Endpoint) {
            Some(_) => builder,
            None => set(builder, AmazonS3ConfigKey::Endpoint, self.endpoint),
        }
    }
}

fn refuse_dynamic(name: &str, key: &impl Fn(&str) -> Option<String>) -> anyhow::Result<()> {
    const DYNAMIC: [(&str, &str); 5] = [
        ("sso_session", "single sign-on"),
        ("sso_start_url", "single sign-on"),
        ("role_arn", "a role"),
        ("source_profile", "a role"),
        ("credential_process", "a credential program"),
    ];
    match DYNAMIC.iter().find(|(setting, _)| key(setting).is_some()) {
        Some((_, what)) => Err(hinted(
            anyhow!("AWS profile `{name}` gets its credentials from {what}, which this program does not do"),
            format!("run `eval \"$(aws configure export-credentials --profile {name} --format env)\"` first"),
        )),
        None => Ok(()),
    }
}

type Sections = BTreeMap<String, BTreeMap<String, String>>;

/// The sections of a profile file. A nested line `key = value` below `s3 =` becomes `s3.key`.
fn sections(text: &str) -> Sections {
    let mut sections = Sections::new();
    let (mut section, mut parent) = (String::new(), String::new());
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = trimmed.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            section = name.split_whitespace().collect::<Vec<_>>().join(" ");
            sections.entry(section.clone()).or_default();
            parent.clear();
        } else if let Some((key, value)) = trimmed.split_once('=') {
            let nested = line.starts_with([' ', '\t']) && !parent.is_empty();
            let key = key.trim().to_lowercase();
            let path = if nested { format!("{parent}.{key}") } else { key.clone() };
            let value = value.split(" #").next().unwrap_or_default().trim().to_owned();
            if !nested {
                parent = if value.is_empty() { key } else { String::new() };
            }
            sections.entry(section.clone()).or_default().insert(path, value);
        }
    }
    sections
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Account;

    const CONFIG: &str = "
# comment
[default]
region = eu-central-1

[profile lab]
region=us-west-2
services = local
[services local]
s3 =
  endpoint_url = http://127.0.0.1:9000
ec2 =
  endpoint_url = http://elsewhere

[profile sso]
sso_session = corp
[profile role]
role_arn = arn:aws:iam::1:role/x
source_profile = default
";
    const CREDENTIALS: &str = "
[default]
aws_access_key_id = AKDEFAULT
aws_secret_access_key = hush
[lab]
aws_access_key_id = AKLAB
aws_secret_access_key = quiet  # mine
aws_session_token = token
";

    fn read(variables: &[(&str, &str)]) -> anyhow::Result<Profile> {
        let environment = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        Profile::read(&environment, Some(CONFIG), Some(CREDENTIALS))
    }

    fn owned(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn the_default_profile_is_taken_unasked() {
        let profile = read(&[]).unwrap();
        assert!(profile.access_key == owned("AKDEFAULT") && profile.secret_key == owned("hush"));
        assert!(profile.region == owned("eu-central-1") && profile.endpoint.is_none());
    }

    #[test]
    fn a_named_profile_brings_its_service_endpoint() {
        let profile = read(&[("AWS_PROFILE", "lab")]).unwrap();
        assert!(profile.access_key == owned("AKLAB") && profile.secret_key == owned("quiet"));
        assert!(profile.token == owned("token") && profile.region == owned("us-west-2"));
        assert!(profile.endpoint == owned("http://127.0.0.1:9000"));
    }

    #[test]
    fn what_object_store_cannot_do_is_said() {
        let cases = [("sso", "single sign-on"), ("role", "a role"), ("nowhere", "in neither profile file")];
        for (name, expected) in cases {
            let Err(error) = read(&[("AWS_PROFILE", name)]) else { panic!("`{name}` was accepted") };
            let account = Account::of(&error);
            assert!(account.lines[0].contains(expected), "{account:?}");
            assert_eq!(account.hints.len(), 1);
        }
    }

    #[test]
    fn keys_of_the_environment_make_a_dynamic_profile_harmless() {
        assert!(read(&[("AWS_PROFILE", "sso"), ("AWS_ACCESS_KEY_ID", "AK")]).is_ok());
    }

    #[test]
    fn empty_variables_count_as_unset() {
        let variables = [("AWS_ALLOW_HTTP", ""), ("AWS_REGION", "eu-north-1"), ("PATH", "/bin")];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let builder = with_variables(AmazonS3Builder::new(), variables.into_iter());
        assert_eq!(builder.get_config_value(&AmazonS3ConfigKey::Region), owned("eu-north-1"));
    }

    #[test]
    fn the_environment_wins_and_keys_stay_together() {
        let builder =
            AmazonS3Builder::new().with_access_key_id("ENV").with_secret_access_key("env").with_region("env");
        let built = read(&[("AWS_PROFILE", "lab")]).unwrap().apply(builder);
        let value = |key| built.get_config_value(&key);
        assert_eq!(value(AmazonS3ConfigKey::AccessKeyId), owned("ENV"));
        assert_eq!(value(AmazonS3ConfigKey::Token), None);
        assert_eq!(value(AmazonS3ConfigKey::Region), owned("env"));
        assert_eq!(value(AmazonS3ConfigKey::Endpoint), owned("http://127.0.0.1:9000"));
    }
}
