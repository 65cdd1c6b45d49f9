//! Runs stories one after the other and reports.

use std::{path::Path, process::ExitCode, time::Instant};

use anyhow::{Context, Result, bail};

use crate::{
    scene::{Scene, Stage},
    stories::Story,
};

/// Runs all and prints one line for each, then the counts.
///
/// # Errors
/// If nothing was chosen; a failed story is no error but the exit code.
pub fn run(stories: &[Story], stage: &Stage, out: &Path) -> Result<ExitCode> {
    if stories.is_empty() {
        bail!("no story has such a name; see --list");
    }
    std::fs::create_dir_all(out).with_context(|| out.display().to_string())?;
    let mut shared: Option<Scene> = None;
    let (mut passed, mut failed) = (0, 0);
    for story in stories {
        let start = Instant::now();
        let outcome = tell(story, stage, &mut shared);
        let seconds = start.elapsed().as_secs_f64();
        match outcome {
            Ok(()) => {
                passed += 1;
                println!("PASS  {} ({seconds:.1} s)", story.name);
            }
            Err(error) => {
                failed += 1;
                println!("FAIL  {} ({seconds:.1} s)\n      {error:#}", story.name);
                if let Some(scene) = shared.take() {
                    scene.keep_logs(&out.join(story.name));
                }
            }
        }
    }
    println!("\n{passed} passed, {failed} failed");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn tell(story: &Story, stage: &Stage, shared: &mut Option<Scene>) -> Result<()> {
    if story.own_scene {
        // Two appliances would share two processor cores: the shared one ends first.
        drop(shared.take());
        let mut scene = stage.scene()?;
        let outcome = (story.run)(&mut scene);
        if outcome.is_err() {
            *shared = Some(scene);
        }
        return outcome;
    }
    if shared.is_none() {
        let mut scene = stage.scene()?;
        let booted = scene.lab.boot();
        let scene = shared.insert(scene);
        booted.context("boot of the shared scene")?;
        return (story.run)(scene);
    }
    match shared {
        Some(scene) => (story.run)(scene),
        None => bail!("no scene"),
    }
}
