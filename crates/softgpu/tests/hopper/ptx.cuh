// The instructions of sm_90a that the test kernels use, one function each.
#pragma once
#include <cstdint>

#define INLINE __device__ __forceinline__

INLINE uint32_t shared(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }

INLINE void init(uint64_t* b, uint32_t count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared(b)), "r"(count) : "memory");
}
INLINE void fence_init() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
INLINE void fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
INLINE void expect(uint64_t* b, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared(b)), "r"(bytes) : "memory");
}
INLINE void arrive(uint64_t* b) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared(b)) : "memory");
}
INLINE void wait(uint64_t* b, uint32_t parity) {
    asm volatile(
        "{ .reg .pred p;\n"
        "W: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
        "@p bra D;\n bra W;\n D: }" ::"r"(shared(b)), "r"(parity) : "memory");
}
INLINE void load(void* to, const void* from, uint32_t bytes, uint64_t* b) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared(to)),
                 "l"(from), "r"(bytes), "r"(shared(b)) : "memory");
}
INLINE void store(void* to, const void* from, uint32_t bytes) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(shared(from)), "r"(bytes)
                 : "memory");
}
INLINE void add(float* to, const void* from, uint32_t bytes) {
    asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(to), "r"(shared(from)),
                 "r"(bytes) : "memory");
}
INLINE void commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
INLINE void wait_read() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }
INLINE void wait_written() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }

// CUtensorMap, opaque.
struct alignas(128) Map {
    uint64_t words[16];
};

INLINE void prefetch(const Map* m) { asm volatile("prefetch.tensormap [%0];" ::"l"(m) : "memory"); }
INLINE void load_2d(void* to, const Map* m, int x, int y, uint64_t* b) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
                     shared(to)), "l"(m), "r"(x), "r"(y), "r"(shared(b)) : "memory");
}
INLINE void store_2d(const Map* m, int x, int y, const void* from) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(m), "r"(x), "r"(y),
                 "r"(shared(from)) : "memory");
}
INLINE void add_2d(const Map* m, int x, int y, const void* from) {
    asm volatile("cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.bulk_group [%0, {%1, %2}], [%3];" ::"l"(m), "r"(x),
                 "r"(y), "r"(shared(from)) : "memory");
}

// Clusters.
#define CLUSTER_ARRIVE asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory")
#define CLUSTER_WAIT asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory")

INLINE uint32_t rank_in_cluster() {
    uint32_t rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}
// The place of something in the shared memory of another block.
INLINE uint32_t of_block(const void* p, uint32_t rank) {
    uint32_t at;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(at) : "r"(shared(p)), "r"(rank));
    return at;
}
INLINE void arrive_at(uint32_t rank, uint64_t* b) {
    asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(of_block(b, rank)) : "memory");
}
INLINE void load_multicast(void* to, const void* from, uint32_t bytes, uint64_t* b, uint16_t ranks) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], %2, [%3], %4;" ::"r"(
            shared(to)), "l"(from), "r"(bytes), "r"(shared(b)), "h"(ranks) : "memory");
}
INLINE void load_2d_multicast(void* to, const Map* m, int x, int y, uint64_t* b, uint16_t ranks) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(
            shared(to)), "l"(m), "r"(x), "r"(y), "r"(shared(b)), "h"(ranks) : "memory");
}
INLINE void copy_to(uint32_t rank, void* to, const void* from, uint32_t bytes, uint64_t* b) {
    asm volatile("cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                     of_block(to, rank)), "r"(shared(from)), "r"(bytes), "r"(of_block(b, rank)) : "memory");
}
