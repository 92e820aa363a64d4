// What compute capability 9.0 has beside threads: barriers in shared memory, copies of tiles by tensor maps, products of
// warpgroups. One function per instruction; the names of the instructions are in the code.
//
// Addresses of shared memory are 32 bits. A barrier is 8 bytes of it. Its phases have parities 0, 1, 0, ...; whoever waits for a
// phase of a parity goes on as soon as the current phase has the other one, so the "phase before the first" is over.
#pragma once

#include "common/dtype.cuh"

/// Before use, by one thread; then barriers_visible, and a barrier of the block.
DEVICE void barrier_init(uint32_t barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
/// Lets copies see what barrier_init did.
DEVICE void barriers_visible() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
DEVICE void barrier_arrive(uint32_t barrier) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory"); }
/// Arrives, and makes the phase wait for so many bytes of copies.
DEVICE void barrier_expect(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
/// Waits until the phase of a parity is over.
DEVICE void barrier_wait(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n\t.reg .pred over;\n\tagain:\n\tmbarrier.try_wait.parity.shared::cta.b64 over, [%0], %1;\n\t@over bra done;\n\tbra again;\n\tdone:\n\t}"
      ::"r"(barrier), "r"(parity)
      : "memory");
}

/// Waits for `threads` threads at barrier `number` of the block (1 to 15).
template <int kNumber, int kThreads>
DEVICE void meet() {
  asm volatile("bar.sync %0, %1;" ::"n"(kNumber), "n"(kThreads) : "memory");
}
/// The same; whether `condition` holds for any of them.
template <int kNumber, int kThreads>
DEVICE bool meet_or(bool condition) {
  uint32_t any;
  asm volatile(
      "{\n\t.reg .pred any;\n\tsetp.ne.u32 any, %1, 0;\n\tbar.red.or.pred any, %2, %3, any;\n\tselp.u32 %0, 1, 0, any;\n\t}"
      : "=r"(any)
      : "r"(static_cast<uint32_t>(condition)), "n"(kNumber), "n"(kThreads)
      : "memory");
  return any != 0;
}

/// Lets copies and products see what the calling thread wrote to shared memory.
DEVICE void writes_visible() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

/// True for one lane of a warp that is whole.
DEVICE bool elected() {
  uint32_t yes;
  asm volatile("{\n\t.reg .pred yes;\n\telect.sync _|yes, 0xffffffff;\n\tselp.u32 %0, 1, 0, yes;\n\t}" : "=r"(yes));
  return yes != 0;
}

/// The registers of a thread from here on; all warps of a warpgroup must call.
template <int kRegisters>
DEVICE void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
DEVICE void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

/// Starts to copy a box of a tensor in global memory that begins at these elements of its four dims, the first of which lies together.
/// The barrier's phase ends when the bytes are there.
DEVICE void copy_box(uint32_t to, const void* map, int32_t c0, int32_t c1, int32_t c2, int32_t c3, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5}], [%6];" ::"r"(to),
      "l"(map), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(barrier)
      : "memory");
}

/// Starts to copy neighbouring bytes of global memory; address, size and destination are multiples of 16. As copy_box.
DEVICE void copy_bytes(uint32_t to, const void* from, uint32_t bytes, uint32_t barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(from), "r"(bytes),
               "r"(barrier)
               : "memory");
}

/// Before products, behind any other use of their registers.
DEVICE void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/// Waits for all products but those of the last kPending groups.
template <int kPending>
DEVICE void products_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
/// Keeps uses of a register on their side of this place: the compiler does not know that products write later.
DEVICE void keep(float& value) { asm volatile("" : "+f"(value)::"memory"); }
DEVICE void keep(uint32_t& value) { asm volatile("" : "+r"(value)::"memory"); }
