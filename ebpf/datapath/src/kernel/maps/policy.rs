//! Maps of the compiled rules.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    helpers,
    macros::map,
    maps::{
        Array, HashMap, LruHashMap,
        lpm_trie::{Key, LpmTrie},
    },
};
use portcullis_datapath::classify::PolicyTables;
use portcullis_datapath_abi::classifier::{
    COUNTED_SOURCES, ClassKey, LINES, Line, MAX_CLASSES, RATED_SOURCES, SourceKey, slot,
};

use portcullis_flow_table::{AtomicU32, AtomicU64};

use super::{CONFIG, Maps};

#[map]
static POLICY: Array<Line> = Array::pinned(2 * LINES, BPF_F_MMAPABLE);
#[map]
static CLASSES: LpmTrie<ClassKey, u32> = LpmTrie::pinned(MAX_CLASSES, 0);
#[map]
static SOURCE_RATES: LruHashMap<SourceKey, u64> = LruHashMap::pinned(RATED_SOURCES, 0);
#[map]
static CONNECTIONS: HashMap<SourceKey, u32> = HashMap::pinned(COUNTED_SOURCES, BPF_F_NO_PREALLOC);

impl PolicyTables for Maps {
    #[inline(always)]
    fn bank(&self) -> u32 {
        CONFIG.get(0).map_or(0, |config| config.bank & 1)
    }

    #[inline(always)]
    fn line(&self, bank: u32, number: u32) -> Option<&Line> {
        POLICY.get(slot(bank, number))
    }

    #[inline(always)]
    fn class(&self, key: &ClassKey, bits: u32) -> Option<u32> {
        CLASSES.get(Key::new(bits, *key)).copied()
    }

    #[inline(always)]
    fn rule_rate(&self, key: &SourceKey) -> Option<&AtomicU64> {
        if SOURCE_RATES.get_ptr(key).is_none() {
            let _ = SOURCE_RATES.insert(key, 0, 0);
        }
        // SAFETY: map memory stays valid while the program runs, and is changed by atomic operations
        // only.
        Some(unsafe { AtomicU64::from_ptr(SOURCE_RATES.get_ptr_mut(key)?) })
    }

    #[inline(always)]
    fn connections(&self, key: &SourceKey) -> Option<&AtomicU32> {
        if CONNECTIONS.get_ptr(key).is_none() {
            let _ = CONNECTIONS.insert(key, 0, aya_ebpf::bindings::BPF_NOEXIST.into());
        }
        // SAFETY: as above.
        Some(unsafe { AtomicU32::from_ptr(CONNECTIONS.get_ptr_mut(key)?) })
    }

    #[inline(always)]
    fn policy_clock(&self) -> u64 {
        // SAFETY: takes nothing, returns a number.
        unsafe { helpers::bpf_ktime_get_ns() }
    }
}
