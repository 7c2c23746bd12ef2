//! `tombolo demo`: a whole mesh on one machine.

use std::process::ExitCode;

use crate::DemoArgs;

pub(crate) async fn run(_args: DemoArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("the demo is not in this build")
}
