//! Runs stories one after the other and reports.

use std::{
    path::Path,
    process::ExitCode,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::Instant,
};

use anyhow::{Context, Result, bail};

use crate::{
    scene::{Scene, Stage, keep_logs},
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
    let mut scene: Option<Scene> = None;
    let (mut passed, mut failed) = (0, 0);
    for story in stories {
        let start = Instant::now();
        let logs = out.join(story.name);
        // Those of an earlier run.
        let _ = std::fs::remove_dir_all(&logs);
        let outcome = thread::scope(|scope| {
            let (done, waits) = channel();
            scope.spawn(|| watch(story, waits, &logs));
            tell(story, stage, &mut scene, done)
        });
        let seconds = start.elapsed().as_secs_f64();
        match &outcome {
            Ok(()) => {
                passed += 1;
                println!("PASS  {} ({seconds:.1} s)", story.name);
            }
            Err(error) => {
                failed += 1;
                println!("FAIL  {} ({seconds:.1} s)\n      {error:#}", story.name);
            }
        }
        if let Some(scene) = &mut scene {
            if scene.lab.emulator_faults > 0 {
                let faults = std::mem::take(&mut scene.lab.emulator_faults);
                println!("      a fault of the emulator: switched on again, {faults} time(s)");
            }
            if outcome.is_err() {
                if let Some(trouble) = scene.trouble() {
                    println!("      {trouble}");
                }
                keep_logs(scene.folder(), &logs);
                println!("      logs in {}", logs.display());
            }
        }
        if outcome.is_err() || story.own_scene {
            scene = None;
        }
    }
    println!("\n{passed} passed, {failed} failed");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The scene that a story was told in stays, for those that share it and for a look at what failed.
fn tell(story: &Story, stage: &Stage, scene: &mut Option<Scene>, _done: Sender<()>) -> Result<()> {
    if story.own_scene {
        // Two appliances would share two processor cores: the shared one ends first.
        *scene = None;
        return (story.run)(scene.insert(stage.scene()?));
    }
    let scene = match scene {
        Some(scene) => scene,
        None => {
            let scene = scene.insert(stage.scene()?);
            scene.lab.boot().context("boot of the shared scene")?;
            scene
        }
    };
    (story.run)(scene)
}

/// Ends everything if a story goes on for longer than any does: that it hangs is a result, too.
fn watch(story: &Story, done: Receiver<()>, logs: &Path) {
    if done.recv_timeout(story.limit) == Err(RecvTimeoutError::Timeout) {
        println!("FAIL  {} (still not done after {:?})", story.name, story.limit);
        println!("      logs in {}", logs.display());
        portcullis_qemu::end(1, |scene| keep_logs(scene, logs));
    }
}
