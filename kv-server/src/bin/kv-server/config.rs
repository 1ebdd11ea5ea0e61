//! The configuration of one node: command line, environment, file, defaults, in this order of precedence.
//!
//! Every setting has one name: `--enable-faults` on the command line, `KV_ENABLE_FAULTS` in the environment,
//! `enable_faults` in the TOML file. All of them arrive as text and are read by one parser each, so that a mistake is
//! reported alike wherever it stands. Other `KV_*` variables are left alone: the client's are among them, and
//! container systems add their own.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use kv_server::server::ServerConfig;
use raft_node::NodeConfig;
use raft_node::offline::Founder;
use rpc_core::driver::key_file;
use rpc_core::security::{Security, SharedKey};
use tracing_subscriber::EnvFilter;

/// The most members that a cluster may be made of; more voters only make every write slower.
pub(crate) const MEMBERS_MAX: usize = 15;
/// The longest `host:port` in bytes: a DNS name and a port.
const ADDRESS_SIZE_MAX: usize = 260;

/// Flags of `kv-server run`. Each may stand in the environment (`KV_ID`) or in the file (`id`) instead.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct RunArgs {
    /// This node's id, from 1. A data folder belongs to the id it was made with
    #[arg(long, value_name = "N")]
    pub(crate) id: Option<String>,
    /// All members as the others reach them: 1=HOST:PORT,2=HOST:PORT,3=HOST:PORT
    #[arg(long, value_name = "LIST")]
    pub(crate) members: Option<String>,
    /// The IP:PORT to listen on (UDP); this node's address in the members unless given
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) listen: Option<String>,
    /// The folder that holds this node's data; it is made if it is not there
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<String>,
    /// With an empty data folder: wait to be taken into a running cluster instead of making one
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) join: Option<String>,
    /// Let clients break this node's links on purpose, for tests
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) enable_faults: Option<String>,
    /// Encrypt everything with the key in this file, which all nodes and clients share (see keygen)
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: Option<String>,
    /// Accept that packets are not encrypted; needed to listen on anything but loopback without a key file
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) insecure: Option<String>,
    /// What to log, to standard error: off, error, warn, info, debug, trace, or target=level,...
    #[arg(long, value_name = "FILTER")]
    pub(crate) log: Option<String>,
    /// A TOML file with any of these settings
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<String>,
    /// If the data is damaged or gone, make this node anew from the other members, under a new id
    #[arg(long)]
    pub(crate) rebuild: bool,
    /// Stop when standard input closes: whoever started this node is gone
    #[arg(long, hide = true)]
    pub(crate) supervised: bool,
}

/// What `kv-server run` needs to know.
#[derive(Clone, Debug)]
pub(crate) struct RunConfig {
    pub(crate) server: ServerConfig,
    pub(crate) listen: SocketAddr,
    pub(crate) data: PathBuf,
    pub(crate) log: String,
    pub(crate) supervised: bool,
    pub(crate) rebuild: bool,
}

/// The settings that a file may hold; each is also a flag and an environment variable.
const SETTINGS: [&str; 9] =
    ["id", "members", "listen", "data", "join", "enable_faults", "key_file", "insecure", "log"];

impl RunConfig {
    /// The environment variables that a node looks at, but the one of the log filter.
    pub(crate) fn environment() -> impl Iterator<Item = String> {
        SETTINGS.into_iter().filter(|name| *name != "log").chain(["config"]).map(variable_name)
    }

    /// Puts the settings together; `environment` looks up a variable.
    pub(crate) fn load(
        args: RunArgs,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let (supervised, rebuild) = (args.supervised, args.rebuild);
        let mut settings = Settings::collect(args, environment)?;
        let id = settings.required("id", node_id)?;
        let members = settings.required("members", members)?;
        let joining = settings.optional("join", boolean)?.unwrap_or(false);
        let own = members.iter().find(|(member, _)| *member == id).map(|(_, address)| address.clone());
        if own.is_none() {
            return Err(settings.contradiction("members", &format!("must hold this node's own id {id}")));
        }
        let listen = match settings.optional("listen", listen_address)? {
            Some(listen) => listen,
            None => own.and_then(|own| own.parse().ok()).ok_or_else(|| {
                let problem = "is not set, and this node's address in the members is a name: \
                               say where to listen, as in 0.0.0.0:7301";
                ConfigError::new("listen", problem)
            })?,
        };
        let insecure = settings.optional("insecure", boolean)?.unwrap_or(false);
        let security = match settings.optional("key_file", key)? {
            Some(_) if insecure => {
                return Err(settings.contradiction("key_file", "and --insecure exclude each other"));
            }
            Some(key) => Security::shared_key(key),
            None if !listen.ip().is_loopback() && !insecure => {
                let problem = "is not loopback, and packets are not encrypted: name a --key-file \
                               (kv-server keygen), or add --insecure if the network is trusted";
                return Err(settings.contradiction("listen", problem));
            }
            None => Security::insecure(),
        };
        let data = settings.required("data", folder)?;
        let log = settings.optional("log", log_filter)?.unwrap_or_else(|| LOG_DEFAULT.to_owned());
        let mut node = NodeConfig::new(id, members);
        node.joining = joining;
        let mut server = ServerConfig::new(node, security);
        server.enable_faults = settings.optional("enable_faults", boolean)?.unwrap_or(false);
        Ok(Self { server, listen, data, log, supervised, rebuild })
    }
}

/// The first member of a new cluster, and the addresses of the others in `members`.
pub(crate) fn founder(id: String, members: String) -> Result<(Founder, Vec<String>), ConfigError> {
    let args = RunArgs { id: Some(id), members: Some(members), ..RunArgs::default() };
    let mut settings = Settings::collect(args, |_| None)?;
    let id = settings.required("id", node_id)?;
    let members = settings.required("members", self::members)?;
    let (own, others): (Vec<_>, Vec<_>) = members.into_iter().partition(|(member, _)| *member == id);
    match own.into_iter().next() {
        Some((id, address)) => {
            Ok((Founder { id, address }, others.into_iter().map(|(_, address)| address).collect()))
        }
        None => Err(settings.contradiction("members", &format!("must hold the founder's id {id}"))),
    }
}

/// What is logged unless told otherwise.
pub(crate) const LOG_DEFAULT: &str = "info,openraft=error,sled=warn";

/// The text of each setting and where it stands.
#[derive(Debug, Default)]
struct Settings(BTreeMap<&'static str, (String, Origin)>);

/// Where the text of a setting stands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    Flag,
    Environment,
    File(PathBuf),
}

impl Settings {
    fn collect(args: RunArgs, environment: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let mut settings = Self::default();
        let variable = |name: &str| environment(&variable_name(name)).filter(|text| !text.is_empty());
        if let Some(path) = args.config.or_else(|| variable("config")) {
            settings.read_file(Path::new(&path))?;
        }
        let flags = [
            args.id,
            args.members,
            args.listen,
            args.data,
            args.join,
            args.enable_faults,
            args.key_file,
            args.insecure,
            args.log,
        ];
        for (name, flag) in SETTINGS.into_iter().zip(flags) {
            let given = flag.map(|text| (text, Origin::Flag));
            let given = given.or_else(|| variable(name).map(|text| (text, Origin::Environment)));
            if let Some(given) = given {
                settings.0.insert(name, given);
            }
        }
        Ok(settings)
    }

    fn read_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let of_file = |problem: String| ConfigError {
            setting: "config".to_owned(),
            value: Some(path.display().to_string()),
            origin: None,
            problem,
        };
        let text =
            std::fs::read_to_string(path).map_err(|error| of_file(format!("cannot be read: {error}")))?;
        let table: toml::Table = text
            .parse()
            .map_err(|error: toml::de::Error| of_file(format!("is not TOML: {}", error.message())))?;
        for (key, value) in table {
            let Some(name) = SETTINGS.into_iter().find(|name| *name == key) else {
                return Err(of_file(format!(
                    "has the unknown key `{key}`; known are {}",
                    SETTINGS.join(", ")
                )));
            };
            let text =
                text_of(&value).ok_or_else(|| of_file(format!("has a {} for `{key}`", value.type_str())))?;
            self.0.insert(name, (text, Origin::File(path.to_owned())));
        }
        Ok(())
    }

    fn optional<T>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        let Some((text, _)) = self.0.get(name) else { return Ok(None) };
        parse(text).map(Some).map_err(|problem| self.contradiction(name, &problem))
    }

    fn required<T>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, ConfigError> {
        self.optional(name, parse)?.ok_or_else(|| {
            let (flag, variable) = (flag_name(name), variable_name(name));
            ConfigError::new(name, &format!("is not set: use {flag}, {variable} or the file of --config"))
        })
    }

    fn contradiction(&self, name: &str, problem: &str) -> ConfigError {
        let mut error = ConfigError::new(name, problem);
        if let Some((text, origin)) = self.0.get(name) {
            error.value = Some(text.clone());
            error.origin = Some(match origin {
                Origin::Flag => flag_name(name),
                Origin::Environment => variable_name(name),
                Origin::File(path) => path.display().to_string(),
            });
        }
        error
    }
}

fn flag_name(name: &str) -> String {
    format!("--{}", name.replace('_', "-"))
}

fn variable_name(name: &str) -> String {
    format!("KV_{}", name.to_uppercase())
}

/// The text that a flag would hold: lists and tables of strings become `a,b` and `key=value,...`.
fn text_of(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(flag) => Some(flag.to_string()),
        toml::Value::Array(items) => {
            let items: Option<Vec<&str>> = items.iter().map(toml::Value::as_str).collect();
            Some(items?.join(","))
        }
        toml::Value::Table(table) => {
            let pair = |(key, value): (&String, &toml::Value)| Some(format!("{key}={}", value.as_str()?));
            let pairs: Option<Vec<String>> = table.iter().map(pair).collect();
            Some(pairs?.join(","))
        }
        toml::Value::Float(_) | toml::Value::Datetime(_) => None,
    }
}

fn node_id(text: &str) -> Result<u64, String> {
    match text.trim().parse() {
        Ok(id) if id > 0 => Ok(id),
        _ => Err(format!("must be a whole number from 1 to {}", u64::MAX)),
    }
}

fn members(text: &str) -> Result<Vec<(u64, String)>, String> {
    let mut members = BTreeMap::new();
    for member in text.split(',').map(str::trim).filter(|member| !member.is_empty()) {
        let (id, address) =
            member.split_once('=').ok_or_else(|| format!("has `{member}`, which must be ID=HOST:PORT"))?;
        let id = node_id(id).map_err(|problem| format!("has the id `{id}`, which {problem}"))?;
        let address = member_address(address)
            .map_err(|problem| format!("has the address `{address}` for node {id}, which {problem}"))?;
        if members.values().any(|other| *other == address) {
            return Err(format!("has the address `{address}` twice"));
        }
        if members.insert(id, address).is_some() {
            return Err(format!("has the id {id} twice"));
        }
    }
    match members.len() {
        0 => Err("must hold at least one ID=HOST:PORT".to_owned()),
        1..=MEMBERS_MAX => Ok(members.into_iter().collect()),
        count => Err(format!("has {count} members, at most {MEMBERS_MAX} are allowed")),
    }
}

/// Checks `host:port`, and gives it without spaces around it.
pub(crate) fn member_address(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.len() > ADDRESS_SIZE_MAX {
        return Err(format!("has {} bytes, at most {ADDRESS_SIZE_MAX} are allowed", text.len()));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return match (address.port(), address.ip().is_unspecified()) {
            (0, _) => Err("must have a port from 1 to 65535".to_owned()),
            (_, true) => Err("must be an address that the other nodes reach".to_owned()),
            _ => Ok(text.to_owned()),
        };
    }
    let (host, port) = text.rsplit_once(':').ok_or("must be HOST:PORT")?;
    if !port.parse::<u16>().is_ok_and(|port| port > 0) {
        return Err("must have a port from 1 to 65535".to_owned());
    }
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if host.is_empty() || !host.bytes().all(valid) {
        return Err("must have a host name or an IP address before the port".to_owned());
    }
    Ok(text.to_owned())
}

fn listen_address(text: &str) -> Result<SocketAddr, String> {
    match text.trim().parse::<SocketAddr>() {
        Ok(address) if address.port() > 0 => Ok(address),
        _ => Err("must be IP:PORT with a port from 1 to 65535, as in 0.0.0.0:7301".to_owned()),
    }
}

fn boolean(text: &str) -> Result<bool, String> {
    match text.trim() {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err("must be true or false".to_owned()),
    }
}

fn folder(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err("must name a folder".to_owned()) } else { Ok(PathBuf::from(text)) }
}

fn key(text: &str) -> Result<SharedKey, String> {
    key_file::read(Path::new(text)).map_err(|error| format!("cannot be used: {error}"))
}

fn log_filter(text: &str) -> Result<String, String> {
    match text.parse::<EnvFilter>() {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("is not a log filter: {error}")),
    }
}

/// A setting that cannot be used: its name, its text, where it stands, and what it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConfigError {
    setting: String,
    value: Option<String>,
    origin: Option<String>,
    problem: String,
}

impl ConfigError {
    pub(crate) fn new(setting: &str, problem: &str) -> Self {
        Self { setting: setting.to_owned(), value: None, origin: None, problem: problem.to_owned() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "setting `{}`", self.setting)?;
        if let Some(value) = &self.value {
            write!(f, " = `{value}`")?;
        }
        if let Some(origin) = &self.origin {
            write!(f, " (from {origin})")?;
        }
        write!(f, " {}", self.problem)
    }
}

impl std::error::Error for ConfigError {}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const MEMBERS: &str = "1=127.0.0.1:7301,2=127.0.0.1:7302,3=127.0.0.1:7303";

    fn args() -> RunArgs {
        RunArgs {
            id: Some("1".to_owned()),
            members: Some(MEMBERS.to_owned()),
            data: Some("data".to_owned()),
            ..RunArgs::default()
        }
    }

    fn load(args: RunArgs) -> Result<RunConfig, String> {
        RunConfig::load(args, |_| None).map_err(|error| error.to_string())
    }

    fn file(text: &str) -> (tempfile::NamedTempFile, Option<String>) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let path = file.path().display().to_string();
        (file, Some(path))
    }

    #[test]
    fn a_node_listens_on_its_own_member_address_unless_told_otherwise() {
        let config = load(args()).unwrap();
        assert_eq!(config.listen, "127.0.0.1:7301".parse().unwrap());
        assert_eq!(config.server.node.members.len(), 3);
        assert!(!config.server.node.joining && !config.server.enable_faults);
        let config = load(RunArgs { listen: Some("127.0.0.1:9".to_owned()), ..args() }).unwrap();
        assert_eq!(config.listen.port(), 9);
    }

    #[test]
    fn a_flag_goes_before_the_environment_before_the_file() {
        let (_file, config) = file("id = 3\nlog = \"warn\"\nenable_faults = true\ndata = \"from-file\"");
        let environment = |name: &str| match name {
            "KV_ID" => Some("2".to_owned()),
            "KV_LOG" => Some("debug".to_owned()),
            "KV_ENDPOINTS" => Some("not ours".to_owned()),
            _ => None,
        };
        let loaded = RunConfig::load(RunArgs { config, ..args() }, environment).unwrap();
        assert_eq!(loaded.server.node.id, 1);
        assert_eq!(loaded.log, "debug");
        assert!(loaded.server.enable_faults);
        assert_eq!(loaded.data, PathBuf::from("data"));
    }

    #[test]
    fn members_may_be_text_a_list_or_a_table_in_the_file() {
        for text in [
            format!("members = \"{MEMBERS}\""),
            "members = [\"1=127.0.0.1:7301\", \"2=127.0.0.1:7302\", \"3=127.0.0.1:7303\"]".to_owned(),
            "[members]\n1 = \"127.0.0.1:7301\"\n2 = \"127.0.0.1:7302\"\n3 = \"127.0.0.1:7303\"".to_owned(),
        ] {
            let (_file, config) = file(&text);
            let loaded = load(RunArgs { config, members: None, ..args() }).unwrap();
            assert_eq!(loaded.server.node.members, members(MEMBERS).unwrap());
        }
    }

    #[test]
    fn every_mistake_names_the_setting_its_value_and_what_it_must_be() {
        let with = |change: fn(&mut RunArgs)| {
            let mut args = args();
            change(&mut args);
            load(args).unwrap_err()
        };
        let cases = [
            (
                with(|args| args.id = Some("0".into())),
                "setting `id` = `0` (from --id) must be a whole number",
            ),
            (with(|args| args.id = Some("4".into())), "must hold this node's own id 4"),
            (with(|args| args.members = Some("1=a".into())), "must be HOST:PORT"),
            (with(|args| args.members = Some("1=a:0".into())), "a port from 1 to 65535"),
            (with(|args| args.members = Some("1=a:1,1=b:1".into())), "has the id 1 twice"),
            (with(|args| args.members = Some("1=a:1,2=a:1".into())), "has the address `a:1` twice"),
            (with(|args| args.members = Some("a:1".into())), "must be ID=HOST:PORT"),
            (with(|args| args.members = Some("1=0.0.0.0:1".into())), "the other nodes reach"),
            (with(|args| args.members = Some("1=node1:1".into())), "say where to listen"),
            (with(|args| args.listen = Some("node1:7301".into())), "must be IP:PORT"),
            (with(|args| args.listen = Some("0.0.0.0:7301".into())), "add --insecure"),
            (with(|args| args.data = None), "use --data, KV_DATA or the file of --config"),
            (
                with(|args| args.join = Some("yes".into())),
                "setting `join` = `yes` (from --join) must be true",
            ),
            (with(|args| args.log = Some("kv=loud".into())), "is not a log filter"),
            (with(|args| args.config = Some("no-such-file".into())), "`no-such-file` cannot be read"),
        ];
        for (message, expected) in cases {
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        }
    }

    #[test]
    fn unknown_and_mistyped_keys_of_the_file_are_errors() {
        for (text, expected) in [
            ("idd = 1", "has the unknown key `idd`; known are id,"),
            ("id = 1.5", "has a float for `id`"),
            ("id = \"one\"", "must be a whole number"),
            ("id = ", "is not TOML"),
        ] {
            let (_file, config) = file(text);
            let message = load(RunArgs { config, id: None, ..args() }).unwrap_err();
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        }
    }

    #[test]
    fn a_key_file_encrypts_and_needs_no_consent_to_insecurity() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        key_file::write(&path, &SharedKey::new([3; 32])).unwrap();
        let anywhere = || RunArgs {
            listen: Some("0.0.0.0:7301".to_owned()),
            key_file: Some(path.display().to_string()),
            ..args()
        };
        assert!(load(anywhere()).unwrap().server.security.is_encrypted());
        assert!(!load(args()).unwrap().server.security.is_encrypted());
        let both = load(RunArgs { insecure: Some("true".to_owned()), ..anywhere() }).unwrap_err();
        assert!(both.contains("exclude each other"), "{both}");
        let none = load(RunArgs { key_file: Some("no-such-file".to_owned()), ..args() }).unwrap_err();
        assert!(none.contains("`key_file` = `no-such-file` (from --key-file) cannot be used"), "{none}");
    }

    #[test]
    fn too_many_members_are_an_error() {
        let many: Vec<String> = (1..=MEMBERS_MAX + 1).map(|id| format!("{id}=host{id}:7301")).collect();
        assert!(members(&many.join(",")).unwrap_err().contains("has 16 members, at most 15 are allowed"));
    }
}
