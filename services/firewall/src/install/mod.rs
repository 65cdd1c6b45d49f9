//! Bringing the maps to what is wanted: only what differs is written, and in an order in which
//! nothing passes that neither the old nor the new policy allows.
//!
//! Interfaces, zones and addresses stand in tables of their own and change one by one. Rules and
//! translations have two halves (banks): the one that is not in force is filled, and then one write
//! to the settings puts it in force, so that every packet sees the old ones or the new ones.

mod addresses;
pub mod guard;
mod interfaces;
mod nat;
mod policy;
mod zones;

use std::{collections::BTreeSet, sync::Arc};

use portcullis_datapath_abi as abi;
use portcullis_policy::{Compiled, Nat};

use crate::{
    compile::Desired,
    datapath::{Maps, Result},
    purge::Gone,
};

/// What the bank that is in force holds, as far as this process put it there.
#[derive(Clone, Debug, Default)]
pub struct InForce {
    policy: Option<Arc<Compiled>>,
    nat: Option<Nat>,
    /// The other bank holds a policy that was in force before.
    outdated: bool,
}

/// Writes what differs. Returns whether anything did; what the maps have no longer is added to `gone`,
/// also before an error: the next call does not find it any more.
///
/// # Errors
/// If the kernel refuses a write; the maps are then between old and new, and the next call goes on.
pub fn install(
    maps: &mut Maps,
    desired: &Desired,
    in_force: &mut InForce,
    gone: &mut Gone,
) -> Result<bool> {
    let mut changed = zones::install(maps, desired, gone)?;
    changed |= interfaces::install(maps, desired)?;
    changed |= addresses::install(maps, desired, gone)?;
    changed |= install_banked(maps, desired, in_force, gone)?;
    Ok(changed)
}

/// Gives up the memory of the rules that were in force before. To be called some time after
/// [`install`], when no packet sees them any more.
///
/// # Errors
/// What the kernel says.
pub fn clear_idle(maps: &Maps, in_force: &mut InForce) -> Result<()> {
    if in_force.outdated {
        policy::clear(maps, maps.config()?.bank & 1 ^ 1)?;
        in_force.outdated = false;
    }
    Ok(())
}

fn install_banked(
    maps: &mut Maps,
    desired: &Desired,
    in_force: &mut InForce,
    gone: &mut Gone,
) -> Result<bool> {
    let before = maps.config()?.bank;
    let mut banks = before;
    let wanted = desired.policy.as_ref().filter(|wanted| {
        in_force.policy.as_ref().is_none_or(|policy| !Arc::ptr_eq(policy, wanted))
    });
    if let Some(wanted) = wanted {
        let idle = banks & 1 ^ 1;
        policy::write(maps, idle, wanted)?;
        banks = banks & !1 | idle;
    }
    let nat_differs = in_force.nat.as_ref() != Some(&desired.nat);
    let mut lost = BTreeSet::new();
    if nat_differs {
        let bank = abi::nat::bank(banks);
        lost = nat::lost(maps, bank, &desired.nat)?;
        nat::write(maps, bank ^ 1, &desired.nat)?;
        banks = abi::nat::with_bank(banks, bank ^ 1);
    }
    if banks == before {
        return Ok(false);
    }
    maps.change_config(|config| config.bank = banks)?;
    gone.addresses.append(&mut lost);
    if let Some(wanted) = wanted {
        in_force.policy = Some(wanted.clone());
        in_force.outdated = true;
    }
    if nat_differs {
        in_force.nat = Some(desired.nat.clone());
    }
    Ok(true)
}
