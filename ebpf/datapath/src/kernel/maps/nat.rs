//! Maps of the translation.

use core::ptr::NonNull;

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    helpers,
    macros::map,
    maps::{
        Array, Queue,
        lpm_trie::{Key, LpmTrie},
    },
};
use portcullis_datapath::nat::NatTables;
use portcullis_datapath_abi::{
    Mapping,
    flow::taken,
    nat::{
        External, ExternalKey, Forward, ForwardKey, ForwardList, ForwardSourceKey, MAX_EXTERNALS,
        MAX_FORWARD_PORTS, MAX_FORWARD_SOURCES, MAX_FORWARDS, MAX_POOL_BLOCKS, MAX_POOLS,
        MAX_STATIC, Pool, PoolBlock, PoolBlockKey, PoolKey, RESERVED_WORDS, StaticKey,
    },
};

use super::{
    Maps,
    flows::{hand_back, take},
};

// User space sets the sizes of these two.
#[map]
static MAPPINGS: Array<Mapping> = Array::pinned(1, BPF_F_MMAPABLE);
#[map]
static FREE_MAPPINGS: Queue<u32> = Queue::pinned(1, 0);

#[map]
static NAT_ADDRESSES: LpmTrie<ExternalKey, External> = LpmTrie::pinned(MAX_EXTERNALS, 0);
#[map]
static NAT_PORTS: LpmTrie<ForwardKey, ForwardList> = LpmTrie::pinned(MAX_FORWARD_PORTS, 0);
#[map]
static NAT_FORWARDS: Array<Forward> = Array::pinned(2 * MAX_FORWARDS, 0);
#[map]
static NAT_SOURCES: LpmTrie<ForwardSourceKey, u32> = LpmTrie::pinned(MAX_FORWARD_SOURCES, 0);
#[map]
static NAT_STATIC: LpmTrie<StaticKey, u32> = LpmTrie::pinned(MAX_STATIC, 0);
#[map]
static NAT_POOLS: LpmTrie<PoolKey, Pool> = LpmTrie::pinned(MAX_POOLS, 0);
#[map]
static NAT_POOL_BLOCKS: LpmTrie<PoolBlockKey, PoolBlock> = LpmTrie::pinned(MAX_POOL_BLOCKS, 0);
#[map]
static NAT_RESERVED: Array<u64> = Array::pinned(2 * RESERVED_WORDS, 0);

// Entries of the bank in force do not change, so what is read is copied without tearing.
impl NatTables for Maps {
    #[inline(always)]
    fn external(&self, key: &ExternalKey) -> Option<External> {
        NAT_ADDRESSES.get(Key::new(ExternalKey::BITS, *key)).copied()
    }

    #[inline(always)]
    fn forwards(&self, key: &ForwardKey) -> Option<ForwardList> {
        NAT_PORTS.get(Key::new(ForwardKey::BITS, *key)).copied()
    }

    #[inline(always)]
    fn forward(&self, index: u32) -> Option<Forward> {
        NAT_FORWARDS.get(index).copied()
    }

    #[inline(always)]
    fn is_forward_source(&self, key: &ForwardSourceKey) -> bool {
        NAT_SOURCES.get(Key::new(ForwardSourceKey::BITS, *key)).is_some()
    }

    #[inline(always)]
    fn static_nat(&self, key: &StaticKey) -> Option<u32> {
        NAT_STATIC.get(Key::new(StaticKey::BITS, *key)).copied()
    }

    #[inline(always)]
    fn pool(&self, key: &PoolKey) -> Option<Pool> {
        NAT_POOLS.get(Key::new(PoolKey::BITS, *key)).copied()
    }

    #[inline(always)]
    fn pool_block(&self, key: &PoolBlockKey) -> Option<PoolBlock> {
        NAT_POOL_BLOCKS.get(Key::new(PoolBlockKey::BITS, *key)).copied()
    }

    #[inline(always)]
    fn reserved(&self, index: u32) -> u64 {
        NAT_RESERVED.get(index).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn mapping(&self, number: u32) -> Option<NonNull<Mapping>> {
        NonNull::new(MAPPINGS.get_ptr_mut(number)?)
    }

    #[inline(always)]
    fn take_mapping(&self, limit: u32) -> Option<u32> {
        take(&FREE_MAPPINGS, taken::MAPPINGS, taken::WAITING_MAPPINGS, limit)
    }

    #[inline(always)]
    fn return_mapping(&self, number: u32) {
        hand_back(&FREE_MAPPINGS, taken::WAITING_MAPPINGS, number);
    }

    #[inline(always)]
    fn chance(&self) -> u32 {
        // SAFETY: takes nothing, returns a number.
        unsafe { helpers::bpf_get_prandom_u32() }
    }
}
