//! The programs: loaded at the same time, linked by tables of stages, replaced from the back to the
//! front.

use std::{
    collections::BTreeMap,
    num::NonZero,
    sync::{Mutex, PoisonError},
};

use aya::{
    Ebpf,
    maps::{MapError, ProgramArray},
    programs::{Program, ProgramError, SchedClassifier, Xdp},
};
use portcullis_datapath_abi::stage::{self, Family};

use super::{DatapathError, Hook, Result};

/// The programs of a hook.
const fn family(hook: Hook) -> &'static Family {
    match hook {
        Hook::Egress => &stage::EGRESS,
        Hook::Ingress => &stage::TCX,
        Hook::Xdp => &stage::XDP,
    }
}

/// Names of the tables of stages: they are made anew with the flow table that the programs in them
/// use.
pub(super) const TABLES: [&str; 3] = [stage::EGRESS.table, stage::TCX.table, stage::XDP.table];

/// Threads that load programs, at most: the manifest allows a few.
const WORKERS: usize = 4;

/// The object file in the kernel.
pub(super) struct Programs(Ebpf);

impl Programs {
    pub(super) fn of(object: Ebpf) -> Self {
        Self(object)
    }

    /// Loads all programs of these hooks that are not loaded yet, several at the same time: the
    /// verifier's work is most of this service's start.
    pub(super) fn load(&mut self, hooks: &[Hook]) -> Result<()> {
        let mut missing: Vec<&'static str> = hooks.iter().copied().flat_map(names).collect();
        // Hooks share some.
        missing.sort_unstable();
        missing.dedup();
        let mut waiting = Vec::new();
        for (name, program) in self.0.programs_mut() {
            if let Some(at) = missing.iter().position(|wanted| *wanted == name) {
                let name = missing.swap_remove(at);
                if program.fd().is_err() {
                    waiting.push((name, program));
                }
            }
        }
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        let waiting = Mutex::new(waiting);
        let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let work = || -> Result<()> {
            while let Some((name, program)) = next() {
                load(program).map_err(|source| refused(name, source))?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..processors.min(WORKERS)).map(|_| scope.spawn(work)).collect();
            let mine = work();
            others.into_iter().fold(mine, |sum, other| match other.join() {
                Ok(loaded) => sum.and(loaded),
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })?;
        missing.first().map_or(Ok(()), |name| Err(DatapathError::Missing(name)))
    }

    /// Puts the loaded stages of a hook into its table: from now on all programs call these, those
    /// of an earlier version too.
    pub(super) fn link(&mut self, hook: Hook) -> Result<()> {
        let Family { table: tables, programs } = *family(hook);
        let mut descriptors = BTreeMap::new();
        for (number, name) in programs {
            let program = self.0.program(name).ok_or(DatapathError::Missing(name))?;
            let descriptor = program.fd().and_then(|fd| Ok(fd.try_clone()?));
            descriptors.insert(*number, descriptor.map_err(|source| refused(name, source))?);
        }
        let failed =
            |source: MapError| DatapathError::Map { name: tables, source: Box::new(source) };
        let table = self.0.map_mut(tables).ok_or(DatapathError::Missing(tables))?;
        let mut table = ProgramArray::try_from(table).map_err(failed)?;
        for (number, descriptor) in &descriptors {
            table.set(*number, descriptor, 0).map_err(failed)?;
        }
        Ok(())
    }

    /// The program at which a hook of tcx begins.
    pub(super) fn tcx(&mut self, hook: Hook) -> Result<&mut SchedClassifier> {
        self.program(entry(hook)?)
    }

    /// The program at which XDP begins.
    pub(super) fn xdp(&mut self) -> Result<&mut Xdp> {
        self.program(entry(Hook::Xdp)?)
    }

    /// All programs of a hook, the first one first.
    pub(super) fn all(&self, hook: Hook) -> impl Iterator<Item = (&'static str, &Program)> {
        names(hook).filter_map(|name| Some((name, self.0.program(name)?)))
    }

    /// A program by its name.
    pub(super) fn program<'a, P>(&'a mut self, name: &'static str) -> Result<&'a mut P>
    where
        &'a mut P: TryFrom<&'a mut Program>,
    {
        self.0
            .program_mut(name)
            .and_then(|program| program.try_into().ok())
            .ok_or(DatapathError::Missing(name))
    }
}

fn names(hook: Hook) -> impl Iterator<Item = &'static str> {
    family(hook).programs.iter().map(|(_, name)| *name)
}

fn entry(hook: Hook) -> Result<&'static str> {
    let Family { table, programs } = family(hook);
    let found = programs.iter().find(|(number, _)| *number == stage::ENTRY);
    found.map(|(_, name)| *name).ok_or(DatapathError::Missing(table))
}

fn load(program: &mut Program) -> std::result::Result<(), ProgramError> {
    match program {
        Program::SchedClassifier(program) => program.load(),
        Program::Xdp(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

fn refused(name: &'static str, source: ProgramError) -> DatapathError {
    DatapathError::Program { name, source: Box::new(source) }
}
