//! `tombolo demo`: a whole mesh on one machine.

use std::process::ExitCode;

use crate::DemoArgs;
use crate::environment::Environment;
use crate::failure::Failure;
use crate::output::Out;

pub(crate) async fn run(
    args: DemoArgs,
    environment: &Environment,
    out: &mut Out<'_>,
) -> Result<ExitCode, Failure> {
    let program = std::env::current_exe().unwrap_or_else(|_| "tombolo".into());
    let stop = runtime::shutdown::requested()?;
    if args.check {
        let kept = demo::check(out.out, out.colours.out, program, stop).await.map_err(Failure::Demo)?;
        return Ok(if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let terminal = environment.out_is_terminal;
    // As it was called, so that the commands it shows can be typed in another terminal.
    let tombolo = program.display().to_string();
    demo::watch(out.out, terminal, &tombolo, stop).await.map_err(Failure::Demo)?;
    Ok(ExitCode::SUCCESS)
}
