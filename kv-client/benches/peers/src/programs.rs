//! Where the servers are installed.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::contestant::Contestant;

/// A program without a folder is looked for in PATH.
#[derive(Clone, Debug, clap::Args)]
pub struct Programs {
    /// Our server; unless named, the release build of this checkout.
    #[arg(long, value_name = "PROGRAM", default_value_os_t = own_build())]
    pub kv_server: PathBuf,
    #[arg(long, value_name = "PROGRAM", default_value = "etcd")]
    pub etcd: PathBuf,
    #[arg(long, value_name = "PROGRAM", default_value = "nats-server")]
    pub nats_server: PathBuf,
    #[arg(long, value_name = "PROGRAM", default_value = "redis-server")]
    pub redis_server: PathBuf,
    /// The Java that runs ZooKeeper.
    #[arg(long, value_name = "PROGRAM", default_value = "java")]
    pub java: PathBuf,
    /// The class path of ZooKeeper; the default is where Debian puts it.
    #[arg(
        long,
        value_name = "CLASSPATH",
        default_value = "/usr/share/java/zookeeper.jar:/usr/share/java/slf4j-nop.jar"
    )]
    pub zookeeper: String,
}

impl Programs {
    /// Makes paths absolute, as servers are started in other folders.
    pub fn settle(&mut self) -> Result<()> {
        for program in [
            &mut self.kv_server,
            &mut self.etcd,
            &mut self.nats_server,
            &mut self.redis_server,
            &mut self.java,
        ] {
            if program.components().count() > 1 && program.exists() {
                *program = fs::canonicalize(&*program)?;
            }
        }
        Ok(())
    }

    /// The version of a contestant's server, or why there is none.
    pub fn version(&self, contestant: Contestant) -> Result<String> {
        match contestant {
            Contestant::Ours => first_line(&self.kv_server, &["version"]),
            Contestant::Etcd => first_line(&self.etcd, &["--version"]),
            Contestant::Nats => first_line(&self.nats_server, &["--version"]),
            Contestant::Redis => first_line(&self.redis_server, &["--version"]),
            Contestant::Zookeeper => first_line(
                &self.java,
                &["-cp", &self.zookeeper, "org.apache.zookeeper.version.VersionInfoMain"],
            ),
        }
    }
}

fn first_line(program: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.with_context(|| program.display().to_string())?;
    if !output.status.success() {
        bail!("{} {}: {}", program.display(), arguments.join(" "), output.status);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    // Redis tells its whole build.
    Ok(text.lines().next().unwrap_or_default().split(" sha=").next().unwrap_or_default().to_owned())
}

fn own_build() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    target.join("release/kv-server")
}
