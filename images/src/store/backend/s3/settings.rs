// SPDX-License-Identifier: Apache-2.0
//! Where a bucket is, and as whom to ask: the environment first, then a profile, then what the machine has for itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey as Key};
use object_store::{Certificate, ClientConfigKey, ClientOptions, RetryConfig};

use super::resolve::Resolver;
use super::{failure, profile};
use crate::{Error, ErrorKind, Result};

/// Largest profile file or bundle of certificates that is read, in bytes.
const MOST: u64 = 16 << 20;

/// This program's environment.
pub(super) fn environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// An environment that is searched.
#[derive(Clone, Copy)]
struct Variables<'a>(&'a [(String, String)]);

impl<'a> Variables<'a> {
    /// A variable's value; one that is empty is as good as none.
    fn get(self, name: &str) -> Option<&'a str> {
        let found = self.0.iter().find(|(other, value)| other == name && !value.is_empty());
        found.map(|(_, value)| value.as_str())
    }

    fn has(self, name: &str) -> bool {
        self.get(name).is_some()
    }

    fn is_true(self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }
}

/// What was found.
#[derive(Debug)]
pub(super) struct Settings {
    builder: AmazonS3Builder,
    client: ClientOptions,
    bucket: String,
}

impl Settings {
    /// Reads the environment, and the files that it or the home directory names.
    pub(super) fn gather(environment: &[(String, String)], bucket: &str) -> Result<Self> {
        let variables = Variables(environment);
        let mut builder = AmazonS3Builder::new().with_disable_bulk_delete(true);
        // One attempt: see `persist`. Which attempt has hung, `persist` decides too.
        let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
        builder = builder.with_retry(retry);
        let mut client = ClientOptions::new()
            .with_timeout_disabled()
            .with_pool_max_idle_per_host(32)
            .with_dns_resolver(Arc::new(Resolver::default()));
        for (name, value) in environment.iter().filter(|(_, value)| !value.is_empty()) {
            let Some(key) = name.strip_prefix("AWS_").map(|_| name.to_ascii_lowercase()) else { continue };
            if let Some(Ok(key)) = key.strip_prefix("aws_").map(str::parse::<ClientConfigKey>) {
                client = client.with_config(key, value);
            } else if let Ok(key) = key.parse::<Key>() {
                // The region that is named for this has precedence over the default of all.
                if key != Key::DefaultRegion || !variables.has("AWS_REGION") {
                    builder = builder.with_config(key, value);
                }
            }
        }
        builder = builder.with_bucket_name(bucket);
        let profile = find_profile(variables)?;
        let get = |name: &str| profile.as_ref().and_then(|profile| profile.get(name)).cloned();
        let sources = [
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_WEB_IDENTITY_TOKEN_FILE",
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        ];
        if !sources.into_iter().any(|name| variables.has(name)) {
            for (key, name) in [
                (Key::AccessKeyId, "aws_access_key_id"),
                (Key::SecretAccessKey, "aws_secret_access_key"),
                (Key::Token, "aws_session_token"),
                (Key::WebIdentityTokenFile, "web_identity_token_file"),
                (Key::RoleArn, "role_arn"),
                (Key::RoleSessionName, "role_session_name"),
            ] {
                if let Some(value) = get(name) {
                    builder = builder.with_config(key, value);
                }
            }
            let known =
                ["aws_access_key_id", "web_identity_token_file"].iter().any(|name| get(name).is_some());
            let source = profile.as_ref().and_then(profile::unknown_source);
            if let Some(source) = source.filter(|_| !known) {
                let because = format!(
                    "the profile gets its credentials by {source}, which unmoor does not do: set AWS_ACCESS_KEY_ID, \
                     AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN (`aws configure export-credentials --format env` prints them)"
                );
                return Err(Error::new(ErrorKind::Usage, "looking for credentials").because(because));
            }
            if !known && variables.is_true("AWS_EC2_METADATA_DISABLED") && !is_unsigned(&builder) {
                return Err(
                    Error::new(ErrorKind::Usage, "looking for credentials").because(failure::NO_CREDENTIALS)
                );
            }
        }
        if builder.get_config_value(&Key::Region).is_none()
            && let Some(region) = get("region")
        {
            builder = builder.with_config(Key::Region, region);
        }
        let mut settings = Self { builder, client, bucket: bucket.to_owned() };
        settings.check()?;
        settings.place(variables, &get)?;
        settings.trust(variables.get("AWS_CA_BUNDLE").map(str::to_owned).or_else(|| get("ca_bundle")))?;
        Ok(settings)
    }

    /// What stands in addresses and headers has to be able to: the crate takes it for granted, and panics.
    fn check(&self) -> Result<()> {
        let named = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        if !self.bucket.bytes().all(named) {
            return Err(Error::new(ErrorKind::Usage, format!("opening the bucket {:.100?}", self.bucket))
                .because("a bucket's name has letters, digits, dots and dashes"));
        }
        for (key, what) in [
            (Key::AccessKeyId, "the access key's name (AWS_ACCESS_KEY_ID)"),
            (Key::SecretAccessKey, "the secret access key (AWS_SECRET_ACCESS_KEY)"),
            (Key::Token, "the session token (AWS_SESSION_TOKEN)"),
            (Key::Region, "the region (AWS_REGION)"),
        ] {
            let value = self.builder.get_config_value(&key).unwrap_or_default();
            if !value.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(Error::new(ErrorKind::Usage, "looking for credentials").because(format!(
                    "{what} has a space, a line's end or another character that it cannot have"
                )));
            }
        }
        Ok(())
    }

    /// Endpoint, and how the bucket stands in addresses.
    fn place(&mut self, variables: Variables<'_>, get: &dyn Fn(&str) -> Option<String>) -> Result<()> {
        let ignored = variables.is_true("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS");
        let names = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"];
        let named = names.into_iter().find_map(|name| variables.get(name));
        let configured = || get("s3.endpoint_url").or_else(|| get("endpoint_url")).filter(|_| !ignored);
        let endpoint = named.map(str::to_owned).or_else(configured);
        let mut builder = self.builder.clone();
        const HOSTED: &str = "AWS_VIRTUAL_HOSTED_STYLE_REQUEST";
        let hosted = match variables.has(HOSTED) {
            true => variables.is_true(HOSTED),
            false => get("s3.addressing_style").is_some_and(|style| style == "virtual"),
        };
        builder = builder.with_virtual_hosted_style_request(hosted);
        if let Some(endpoint) = endpoint {
            // The crate takes whatever is no address for its own mistake, and panics.
            let scheme = ["http://", "https://"].into_iter().any(|scheme| endpoint.starts_with(scheme));
            let plain = |byte: u8| byte.is_ascii_graphic() && !br#""<>\^`{|}"#.contains(&byte);
            let address = reqwest::Url::parse(&endpoint).is_ok_and(|url| url.has_host());
            if !scheme || !address || !endpoint.bytes().all(plain) {
                let because =
                    "an endpoint begins with http:// or https://, and a host follows: check AWS_ENDPOINT_URL";
                return Err(Error::new(ErrorKind::Usage, format!("reading the endpoint {endpoint:.200?}"))
                    .because(because));
            }
            // A plain endpoint was asked for by name; there is nothing to protect it from.
            if endpoint.starts_with("http://") {
                self.client = std::mem::take(&mut self.client).with_allow_http(true);
            }
            let endpoint = if hosted { hosted_endpoint(&endpoint, &self.bucket) } else { endpoint };
            builder = builder.with_config(Key::S3Endpoint, endpoint);
        }
        self.builder = builder;
        Ok(())
    }

    /// Whose certificates count.
    fn trust(&mut self, bundle: Option<String>) -> Result<()> {
        let plain = self.endpoint().starts_with("http://");
        let mut client = std::mem::take(&mut self.client);
        if let Some(bundle) = bundle {
            let path = Path::new(&bundle);
            let doing = "reading the certificates of authorities";
            let failed = |error| Error::new(ErrorKind::Usage, doing).path(path).source(error);
            let pem = read(path).map_err(|error| Error::new(error.kind(), doing).source(error))?;
            for certificate in Certificate::from_pem_bundle(&pem).map_err(failed)? {
                client = client.with_root_certificate(certificate);
            }
            client = client.with_no_system_certificates(true);
        } else if plain {
            // A machine without any, as the rescue environment is, needs none.
            client = client.with_no_system_certificates(true);
        }
        self.client = client;
        Ok(())
    }

    /// Where the bucket is, for people.
    pub(super) fn endpoint(&self) -> String {
        let region = || self.builder.get_config_value(&Key::Region).unwrap_or_else(|| "us-east-1".into());
        self.builder
            .get_config_value(&Key::S3Endpoint)
            .unwrap_or_else(|| format!("https://s3.{}.amazonaws.com", region()))
    }

    /// True if requests are not signed, as for a public bucket.
    pub(super) fn is_unsigned(&self) -> bool {
        is_unsigned(&self.builder)
    }

    /// The client.
    pub(super) fn build(self) -> Result<AmazonS3> {
        self.builder.with_client_options(self.client).build().map_err(|error| {
            Error::new(ErrorKind::Usage, "setting up the client")
                .because("an AWS_ variable or a setting of the profile is not understood")
                .source(error)
        })
    }
}

fn is_unsigned(builder: &AmazonS3Builder) -> bool {
    builder.get_config_value(&Key::SkipSignature).is_some_and(|value| value == "true")
}

/// `http://10.0.0.1:9000` -> `http://bucket.10.0.0.1:9000`.
fn hosted_endpoint(endpoint: &str, bucket: &str) -> String {
    match endpoint.split_once("://") {
        Some((scheme, host)) if !host.starts_with(&format!("{bucket}.")) => {
            format!("{scheme}://{bucket}.{host}")
        }
        _ => endpoint.to_owned(),
    }
}

/// The profile that is named, which must be there, or the default one, which need not.
fn find_profile(variables: Variables<'_>) -> Result<Option<profile::Section>> {
    let home = variables.get("HOME").map(PathBuf::from);
    let path = |variable: &str, name: &str| {
        let beside = || home.as_ref().map(|home| home.join(".aws").join(name));
        variables.get(variable).map(PathBuf::from).or_else(beside)
    };
    let text = |path: Option<PathBuf>| -> Result<String> {
        let Some(path) = path.filter(|path| path.exists()) else { return Ok(String::new()) };
        Ok(String::from_utf8_lossy(&read(&path)?).into_owned())
    };
    let credentials = text(path("AWS_SHARED_CREDENTIALS_FILE", "credentials"))?;
    let config = text(path("AWS_CONFIG_FILE", "config"))?;
    let named = variables.get("AWS_PROFILE").or_else(|| variables.get("AWS_DEFAULT_PROFILE"));
    let found = profile::find(&credentials, &config, named.unwrap_or("default"));
    match (named, found) {
        (Some(name), None) => {
            let because = "neither ~/.aws/credentials nor ~/.aws/config has it";
            Err(Error::new(ErrorKind::Usage, format!("looking for the profile {name:.200?}"))
                .because(because))
        }
        (_, found) => Ok(found),
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    use std::io::Read;
    let failed = |error| Error::io("reading", error).path(path);
    let mut bytes = Vec::new();
    std::fs::File::open(path).map_err(failed)?.take(MOST + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MOST {
        return Err(Error::malformed("reading", "it is larger than 16 MiB").path(path));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn gathered(variables: &[(&str, &str)]) -> Settings {
        let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Settings::gather(&variables.iter().map(pair).collect::<Vec<_>>(), "b").unwrap()
    }

    fn value(settings: &Settings, key: Key) -> Option<String> {
        settings.builder.get_config_value(&key)
    }

    #[test]
    fn the_environment_comes_before_the_profile() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join(".aws/config");
        std::fs::create_dir(folder.path().join(".aws")).unwrap();
        std::fs::write(
            &config,
            "[default]\nregion = of-default\naws_access_key_id = D\naws_secret_access_key = s\n[profile p]\nregion = of-p\n\
             endpoint_url = http://p:1\naws_access_key_id = P\naws_secret_access_key = s\ns3 =\n addressing_style = virtual\n",
        )
        .unwrap();
        let home = ("HOME", folder.path().to_str().unwrap());
        let plain = gathered(&[home]);
        assert_eq!(value(&plain, Key::AccessKeyId).as_deref(), Some("D"));
        assert_eq!(plain.endpoint(), "https://s3.of-default.amazonaws.com");
        let named = gathered(&[home, ("AWS_PROFILE", "p")]);
        assert_eq!(value(&named, Key::Region).as_deref(), Some("of-p"));
        assert_eq!(named.endpoint(), "http://b.p:1");
        let keys = [("AWS_ACCESS_KEY_ID", "E"), ("AWS_SECRET_ACCESS_KEY", "x"), ("AWS_DEFAULT_REGION", "e")];
        let both = gathered(
            &[&[home, ("AWS_PROFILE", "p"), ("AWS_ENDPOINT_URL", "http://e:2")], &keys[..]].concat(),
        );
        assert_eq!(value(&both, Key::AccessKeyId).as_deref(), Some("E"));
        assert_eq!(value(&both, Key::Region).as_deref(), Some("e"));
        assert_eq!(both.endpoint(), "http://b.e:2");
        let regions = gathered(&[&keys[..], &[("AWS_REGION", "r")]].concat());
        assert_eq!(value(&regions, Key::Region).as_deref(), Some("r"));
        let own = [("AWS_ENDPOINT_URL", "http://all:1"), ("AWS_ENDPOINT_URL_S3", "http://s3:1")];
        assert_eq!(gathered(&[&keys[..], &own].concat()).endpoint(), "http://s3:1");
    }

    #[test]
    fn what_is_missing_is_said() {
        let gather = |variables: &[(&str, &str)]| {
            let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            Settings::gather(&variables.iter().map(pair).collect::<Vec<_>>(), "b").unwrap_err().chain()
        };
        assert!(gather(&[("AWS_EC2_METADATA_DISABLED", "true")]).contains("AWS_ACCESS_KEY_ID"));
        assert!(gather(&[("AWS_PROFILE", "nobody")]).contains("\"nobody\": neither"));
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config");
        std::fs::write(&config, "[default]\ncredential_process = /bin/x\n").unwrap();
        let said = gather(&[("AWS_CONFIG_FILE", config.to_str().unwrap())]);
        assert!(said.contains("by credential_process, which unmoor does not do"), "{said}");
        let bundle = [
            ("AWS_ACCESS_KEY_ID", "E"),
            ("AWS_SECRET_ACCESS_KEY", "x"),
            ("AWS_CA_BUNDLE", "/nowhere/authorities.pem"),
        ];
        assert!(gather(&bundle).contains("/nowhere/authorities.pem"));
    }

    #[test]
    fn what_cannot_stand_in_a_request_is_refused() {
        let gather = |name: &str, value: &str, bucket: &str| {
            let mut all = vec![("AWS_ACCESS_KEY_ID", "E"), ("AWS_SECRET_ACCESS_KEY", "x")];
            all.retain(|(other, _)| *other != name);
            all.push((name, value));
            let all: Vec<_> =
                all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            Settings::gather(&all, bucket).map(|_| ()).map_err(|error| error.chain())
        };
        let endpoints = [
            "127.0.0.1:9000",
            "s3.example.org",
            "http://",
            "http://a b",
            "http://h:99999",
            "ftp://h",
            "http://h/p{",
        ];
        for endpoint in endpoints {
            let said = gather("AWS_ENDPOINT_URL", endpoint, "b").unwrap_err();
            assert!(said.contains("begins with http:// or https://"), "{endpoint}: {said}");
        }
        for endpoint in ["http://127.0.0.1:9000", "https://s3.example.org/base/", "http://[::1]:1"] {
            gather("AWS_ENDPOINT_URL", endpoint, "b").unwrap();
        }
        for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION"] {
            assert!(gather(name, "a\nb", "b").unwrap_err().contains(name));
        }
        assert!(gather("AWS_REGION", "r", "b ucket").unwrap_err().contains("letters, digits"));
        gather("AWS_REGION", "r", "b.u-c_K3t").unwrap();
    }
}
