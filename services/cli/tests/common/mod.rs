//! `pctl` as a process.

use std::process::{Output, Stdio};

use anyhow::{Context, Result};
use portcullis_peers::{Router, example};

/// The command on a router.
pub struct Pctl {
    pub router: Router,
}

impl Pctl {
    pub async fn run(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = self.router.command(&example("pctl")?);
        command.args(arguments).stdin(Stdio::null());
        Ok(tokio::task::spawn_blocking(move || command.output()).await??)
    }

    /// Standard output of a command that succeeds.
    pub async fn text(&self, arguments: &[&str]) -> Result<String> {
        let output = self.run(arguments).await?;
        anyhow::ensure!(output.status.success(), "{output:?}");
        anyhow::ensure!(output.stderr.is_empty(), "{output:?}");
        Ok(String::from_utf8(output.stdout)?)
    }

    pub async fn json(&self, arguments: &[&str]) -> Result<serde_json::Value> {
        Ok(serde_json::from_str(&self.text(&[&["--json"], arguments].concat()).await?)?)
    }

    /// Exit code and standard error.
    pub async fn fails(&self, arguments: &[&str]) -> Result<(i32, String)> {
        let output = self.run(arguments).await?;
        let code = output.status.code().context("signal")?;
        assert_ne!(code, 0, "{output:?}");
        Ok((code, String::from_utf8(output.stderr)?))
    }
}
