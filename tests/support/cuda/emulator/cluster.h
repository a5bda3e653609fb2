// What kernels do with the other blocks of their cluster; a part of device.h.
#pragma once

inline void ptx_barrier_cluster_arrive_release() { emulator::arrive_cluster(); }
inline void ptx_barrier_cluster_wait_acquire() { emulator::wait_cluster(); }
inline void ptx_mapa_shared__cluster_u32(Register& to, Register at, Register rank) { to = emulator::address_in(at, rank); }
template <class T>
void ptx_ld_shared__cluster(T* to, Register at, int count) { emulator::load_of_cluster(to, at, count * sizeof(T)); }
#define CLUSTER_LOADS(kind, T) \
  inline void ptx_ld_shared__cluster_##kind(T& a, Register at) { ptx_ld_shared__cluster(&a, at, 1); } \
  inline void ptx_ld_shared__cluster_v2_##kind(T& a, T& b, Register at) { \
    T all[2]; \
    ptx_ld_shared__cluster(all, at, 2); \
    a = all[0], b = all[1]; \
  } \
  inline void ptx_ld_shared__cluster_v4_##kind(T& a, T& b, T& c, T& d, Register at) { \
    T all[4]; \
    ptx_ld_shared__cluster(all, at, 4); \
    a = all[0], b = all[1], c = all[2], d = all[3]; \
  }
CLUSTER_LOADS(f32, float)
CLUSTER_LOADS(b32, Register)
