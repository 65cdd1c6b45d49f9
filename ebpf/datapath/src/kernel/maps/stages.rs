//! The programs of each hook, by stage. The service fills the tables; an XDP stage that is not there is
//! left to tcx.

use aya_ebpf::{
    macros::map,
    maps::ProgramArray,
    programs::{TcContext, XdpContext},
};
use portcullis_datapath_abi::stage;

#[map]
static TCX_STAGES: ProgramArray = ProgramArray::pinned(stage::COUNT, 0);
#[map]
static EGRESS_STAGES: ProgramArray = ProgramArray::pinned(stage::COUNT, 0);
#[map]
static XDP_STAGES: ProgramArray = ProgramArray::pinned(stage::COUNT, 0);

/// Goes on with the program at a place of [`stage::TCX`]; comes back only if that is not there.
#[inline(always)]
pub fn tcx(context: &TcContext, place: u32) {
    // SAFETY: nothing here needs to be dropped.
    unsafe { TCX_STAGES.tail_call(context, place) };
}

/// The same of [`stage::EGRESS`].
#[inline(always)]
pub fn egress(context: &TcContext, place: u32) {
    // SAFETY: nothing here needs to be dropped.
    unsafe { EGRESS_STAGES.tail_call(context, place) };
}

/// The same of [`stage::XDP`].
#[inline(always)]
pub fn xdp(context: &XdpContext, place: u32) {
    // SAFETY: nothing here needs to be dropped.
    unsafe { XDP_STAGES.tail_call(context, place) };
}
