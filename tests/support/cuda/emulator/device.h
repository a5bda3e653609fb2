// The part of CUDA C++ that TVM's generated kernels use, for a host compiler. Inline PTX becomes calls of the ptx_
// functions below (see emulate.py), named after the instruction with its operands in the order of its text, so that
// an instruction which is not here does not compile.
#pragma once
#include <cmath>
#include <cstring>
#include <type_traits>

#include "runtime.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __grid_constant__
#define __CUDA_ARCH__ 800
#define __CUDACC_VER_MAJOR__ 13
#define __CUDACC_VER_MINOR__ 0
#define CUDART_INF_F INFINITY

#define threadIdx emulator::thread_index
#define blockIdx emulator::block_index
#define blockDim emulator::block_size
#define gridDim emulator::grid_size

using half = _Float16;
using __half = half;

struct nv_bfloat16 {
  uint16_t bits;
  nv_bfloat16() = default;
  template <class T, class = std::enable_if_t<std::is_arithmetic_v<T> || std::is_same_v<T, half>>>
  nv_bfloat16(T value) {
    float wide = static_cast<float>(value);
    uint32_t word;
    memcpy(&word, &wide, 4);
    bits = wide != wide ? 0x7FFF : (word + 0x7FFF + (word >> 16 & 1)) >> 16;  // to nearest, ties to even
  }
  operator float() const {
    uint32_t word = static_cast<uint32_t>(bits) << 16;
    float wide;
    memcpy(&wide, &word, 4);
    return wide;
  }
};
using __nv_bfloat16 = nv_bfloat16;

template <class T, int alignment>
struct alignas(alignment) Two { T x, y; };
template <class T, int alignment>
struct alignas(alignment) Four { T x, y, z, w; };
using half2 = Two<half, 4>;
using __half2 = half2;
using nv_bfloat162 = Two<nv_bfloat16, 4>;
using __nv_bfloat162 = nv_bfloat162;
using char2 = Two<signed char, 2>;
using char4 = Four<signed char, 4>;
using uchar2 = Two<unsigned char, 2>;
using uchar4 = Four<unsigned char, 4>;
using short4 = Four<short, 8>;
using ushort4 = Four<unsigned short, 8>;
using int2 = Two<int, 8>;
using int4 = Four<int, 16>;
using uint2 = Two<unsigned, 8>;
using uint4 = Four<unsigned, 16>;
using float2 = Two<float, 8>;
using float4 = Four<float, 16>;
using longlong2 = Two<long long, 16>;
using ulonglong2 = Two<unsigned long long, 16>;
using double2 = Two<double, 16>;

inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline longlong2 make_longlong2(long long x, long long y) { return {x, y}; }
inline half2 make_half2(half x, half y) { return {x, y}; }
inline half2 __halves2half2(half x, half y) { return {x, y}; }
inline half2 __floats2half2_rn(float x, float y) { return {static_cast<half>(x), static_cast<half>(y)}; }
inline half2 __float22half2_rn(float2 v) { return __floats2half2_rn(v.x, v.y); }
inline float2 __half22float2(half2 v) { return {static_cast<float>(v.x), static_cast<float>(v.y)}; }
inline nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {nv_bfloat16(x), nv_bfloat16(y)}; }
inline float2 __bfloat1622float2(nv_bfloat162 v) { return {v.x, v.y}; }

inline float __half2float(half x) { return x; }
inline half __float2half(float x) { return static_cast<half>(x); }
inline half __float2half_rn(float x) { return static_cast<half>(x); }
inline float __bfloat162float(nv_bfloat16 x) { return x; }
inline nv_bfloat16 __float2bfloat16(float x) { return x; }
inline nv_bfloat16 __float2bfloat16_rn(float x) { return x; }
inline bool __hgt(half a, half b) { return a > b; }
inline bool __hlt(half a, half b) { return a < b; }
inline bool __hgt(nv_bfloat16 a, nv_bfloat16 b) { return float(a) > float(b); }
inline bool __hlt(nv_bfloat16 a, nv_bfloat16 b) { return float(a) < float(b); }

inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }

inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __tanf(float x) { return tanf(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float rsqrtf(float x) { return 1 / sqrtf(x); }
inline float __frsqrt_rn(float x) { return rsqrtf(x); }
inline float __uint_as_float(unsigned x) { float y; memcpy(&y, &x, 4); return y; }
inline float __int_as_float(int x) { float y; memcpy(&y, &x, 4); return y; }
inline unsigned __float_as_uint(float x) { unsigned y; memcpy(&y, &x, 4); return y; }
inline int __float_as_int(float x) { int y; memcpy(&y, &x, 4); return y; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(unsigned x) { return x ? __builtin_clz(x) : 32; }
template <class T>
T __ldg(const T* p) { return *p; }

#define EMULATED_HALF_FUNCTION(name, function)                        \
  inline half name(half x) { return static_cast<half>(function(x)); } \
  inline nv_bfloat16 name(nv_bfloat16 x) { return function(x); }
EMULATED_HALF_FUNCTION(hexp, expf)
EMULATED_HALF_FUNCTION(hexp2, exp2f)
EMULATED_HALF_FUNCTION(hexp10, exp10f)
EMULATED_HALF_FUNCTION(hlog, logf)
EMULATED_HALF_FUNCTION(hlog2, log2f)
EMULATED_HALF_FUNCTION(hlog10, log10f)
EMULATED_HALF_FUNCTION(hsqrt, sqrtf)
EMULATED_HALF_FUNCTION(hrsqrt, rsqrtf)
EMULATED_HALF_FUNCTION(hsin, sinf)
EMULATED_HALF_FUNCTION(hcos, cosf)
EMULATED_HALF_FUNCTION(htanh, tanhf)
EMULATED_HALF_FUNCTION(hfloor, floorf)
EMULATED_HALF_FUNCTION(hceil, ceilf)
EMULATED_HALF_FUNCTION(htrunc, truncf)
EMULATED_HALF_FUNCTION(hrint, nearbyintf)
EMULATED_HALF_FUNCTION(__habs, fabsf)
inline half __hfma(half x, half y, half z) { return static_cast<half>(fmaf(x, y, z)); }

inline void __syncthreads() { emulator::barrier(); }
inline void __syncwarp(unsigned = 0xFFFFFFFF) { emulator::warp_barrier(); }
inline unsigned __activemask() { return emulator::active_mask(); }
inline unsigned __cvta_generic_to_shared(const void* p) { return emulator::shared_address(p); }
template <class T>
T emulated_shuffle(T value, emulator::Shuffle kind, int operand, int width) {
  emulator::shuffle(&value, sizeof value, kind, operand, width);
  return value;
}
template <class T>
T __shfl_sync(unsigned, T v, int o, int w = 32) { return emulated_shuffle(v, emulator::Shuffle::absolute, o, w); }
template <class T>
T __shfl_up_sync(unsigned, T v, int o, int w = 32) { return emulated_shuffle(v, emulator::Shuffle::up, o, w); }
template <class T>
T __shfl_down_sync(unsigned, T v, int o, int w = 32) { return emulated_shuffle(v, emulator::Shuffle::down, o, w); }
template <class T>
T __shfl_xor_sync(unsigned, T v, int o, int w = 32) { return emulated_shuffle(v, emulator::Shuffle::exclusive, o, w); }

// ---- PTX ----
using Register = uint32_t;

inline void ptx_cp_async_commit_group() { emulator::commit_copies(); }
inline void ptx_cp_async_wait_group(unsigned pending) { emulator::wait_copies(pending); }
inline void ptx_cp_async_cg_shared_global_L2__128B(Register to, const void* from, int size, int valid = 16) {
  emulator::copy_async(to, from, size, valid);
}
inline void ptx_cp_async_ca_shared_global(Register to, const void* from, int size) {
  emulator::copy_async(to, from, size, size);
}
inline void ptx_cp_async_ca_shared_global(Register to, const void* from, int size, int valid) {
  emulator::copy_async(to, from, size, valid);
}

template <class T>
void ptx_ld_global_b16(T& to, const void* from) {
  emulator::check_global(from, 2);
  memcpy(&to, from, 2);
}
template <class T, class... Rest>
void emulated_global_words(const void* from, T& first, Rest&... rest) {
  T v[1 + sizeof...(rest)];
  emulator::check_global(from, sizeof v);
  memcpy(v, from, sizeof v);
  int i = 0;
  first = v[i++];
  ((rest = v[i++]), ...);
}
template <class T>
void ptx_ld_global_b32(T& to, const void* from) { emulated_global_words(from, to); }
template <class T>
void ptx_ld_global_cs_v2_b32(T& a, T& b, const void* from) { emulated_global_words(from, a, b); }
template <class T>
void ptx_ld_global_v4_b32(T& a, T& b, T& c, T& d, const void* from) { emulated_global_words(from, a, b, c, d); }
template <class T>
void ptx_ld_global_cs_v4_b32(T& a, T& b, T& c, T& d, const void* from) { emulated_global_words(from, a, b, c, d); }
template <class T>
void ptx_ld_shared_b16(T& to, Register at) { emulator::load(&to, at, 2); }
template <class T>
void ptx_ld_shared_b32(T& to, Register at) { emulator::load(&to, at, 4); }
template <class T>
void ptx_ld_shared_f32(T& to, Register at) { emulator::load(&to, at, 4); }
template <class T>
void ptx_ld_shared_b64(T& to, Register at) { emulator::load(&to, at, 8); }
template <class T>
void ptx_ld_shared_v2_b32(T& a, T& b, Register at) {
  T v[2];
  emulator::load(v, at, 8);
  a = v[0], b = v[1];
}
template <class T>
void ptx_ld_shared_v4_b32(T& a, T& b, T& c, T& d, Register at) {
  T v[4];
  emulator::load(v, at, 16);
  a = v[0], b = v[1], c = v[2], d = v[3];
}
inline void ptx_ld_shared_v2_f32(float& a, float& b, Register at) { ptx_ld_shared_v2_b32(a, b, at); }
inline void ptx_ld_shared_v4_f32(float& a, float& b, float& c, float& d, Register at) {
  ptx_ld_shared_v4_b32(a, b, c, d, at);
}
inline void ptx_st_shared_b16(Register at, uint16_t value) { emulator::store(at, &value, 2); }
inline void ptx_st_shared_f32(Register at, float value) { emulator::store(at, &value, 4); }
inline void ptx_st_shared_v2_f32(Register at, float a, float b) {
  float v[2] = {a, b};
  emulator::store(at, v, 8);
}

inline void ptx_st_shared_b32(Register at, Register value) { emulator::store(at, &value, 4); }
inline void ptx_st_shared_v2_b32(Register at, Register a, Register b) {
  Register v[2] = {a, b};
  emulator::store(at, v, 8);
}
inline void ptx_st_shared_v4_b32(Register at, Register a, Register b, Register c, Register d) {
  Register v[4] = {a, b, c, d};
  emulator::store(at, v, 16);
}

inline void ptx_dp4a_u32_u32(Register& to, Register a, Register b, Register c) {
  for (int i = 0; i < 4; i++) c += (a >> 8 * i & 255) * (b >> 8 * i & 255);
  to = c;
}
inline void ptx_prmt_b32(Register& to, Register a, Register b, Register selector) {
  uint64_t both = static_cast<uint64_t>(b) << 32 | a;
  Register result = 0;
  for (int i = 0; i < 4; i++) {
    Register digit = selector >> 4 * i & 15, byte = both >> 8 * (digit & 7) & 255;
    result |= (digit & 8 ? (byte & 128 ? 255 : 0) : byte) << 8 * i;
  }
  to = result;
}

inline void ptx_st_global_b32(const void* to, uint32_t value) {
  emulator::check_global(to, 4);
  memcpy(const_cast<void*>(to), &value, 4);
}

inline void ptx_mul_rn_f32(float& to, float a, float b) {
  volatile float product = a * b;  // which no sum contracts
  to = product;
}
inline void ptx_cvt_rn_satfinite_e4m3x2_f32(uint16_t& to, float high, float low) {
  to = emulator::to_e4m3(high) << 8 | emulator::to_e4m3(low);
}
inline void ptx_ex2_approx_ftz_f32(float& to, float x) {
  float power = exp2f(x);
  to = power < 0x1p-126f ? 0 : power;
}
inline void ptx_cvt_rn_f16x2_f32(Register& to, float high, float low) {
  half2 pair{static_cast<half>(low), static_cast<half>(high)};
  memcpy(&to, &pair, 4);
}
inline void ptx_cvt_rn_bf16x2_f32(Register& to, float high, float low) {
  nv_bfloat162 pair{nv_bfloat16(low), nv_bfloat16(high)};
  memcpy(&to, &pair, 4);
}

inline void emulated_ldmatrix(Register& a, Register& b, Register& c, Register& d, Register row, bool transposed) {
  Register r[4];
  emulator::load_matrices(r, row, 4, transposed);
  a = r[0], b = r[1], c = r[2], d = r[3];
}
inline void ptx_ldmatrix_sync_aligned_m8n8_x4_shared_b16(Register& a, Register& b, Register& c, Register& d, Register p) {
  emulated_ldmatrix(a, b, c, d, p, false);
}
inline void ptx_ldmatrix_sync_aligned_m8n8_x4_trans_shared_b16(Register& a, Register& b, Register& c, Register& d,
                                                               Register p) {
  emulated_ldmatrix(a, b, c, d, p, true);
}

template <class Sum>
void emulated_mma(emulator::Product p, Sum& d0, Sum& d1, Sum& d2, Sum& d3, Sum c0, Sum c1, Sum c2, Sum c3) {
  Sum sums[4] = {c0, c1, c2, c3};
  memcpy(p.sums, sums, sizeof sums);
  emulator::multiply(p);
  memcpy(sums, p.sums, sizeof sums);
  d0 = sums[0], d1 = sums[1], d2 = sums[2], d3 = sums[3];
}
#define EMULATED_SPARSE_MMA(name, element, Sum)                                                                       \
  inline void ptx_mma_sp__ordered_metadata_sync_aligned_##name(                                                       \
      Sum& d0, Sum& d1, Sum& d2, Sum& d3, Register a0, Register a1, Register a2, Register a3, Register b0,            \
      Register b1, Register b2, Register b3, Sum c0, Sum c1, Sum c2, Sum c3, Register metadata, int selector) {       \
    emulated_mma({element, true, {a0, a1, a2, a3}, {b0, b1, b2, b3}, {}, metadata, selector}, d0, d1, d2, d3, c0, c1, \
                 c2, c3);                                                                                             \
  }
#define EMULATED_DENSE_MMA(name, element, Sum)                                                                        \
  inline void ptx_mma_sync_aligned_##name(Sum& d0, Sum& d1, Sum& d2, Sum& d3, Register a0, Register a1, Register a2,  \
                                          Register a3, Register b0, Register b1, Sum c0, Sum c1, Sum c2, Sum c3) {    \
    emulated_mma({element, false, {a0, a1, a2, a3}, {b0, b1, 0, 0}, {}, 0, 0}, d0, d1, d2, d3, c0, c1, c2, c3);       \
  }
// The later columns of a fragment and of what it multiplies are zeros.
#define EMULATED_SHORT_MMA(name, element)                                                                             \
  inline void ptx_mma_sync_aligned_##name(float& d0, float& d1, float& d2, float& d3, Register a0, Register a1,       \
                                          Register b0, float c0, float c1, float c2, float c3) {                      \
    emulated_mma({element, false, {a0, a1, 0, 0}, {b0, 0, 0, 0}, {}, 0, 0}, d0, d1, d2, d3, c0, c1, c2, c3);          \
  }
EMULATED_SHORT_MMA(m16n8k8_row_col_f32_f16_f16_f32, emulator::Element::f16)
EMULATED_SHORT_MMA(m16n8k8_row_col_f32_bf16_bf16_f32, emulator::Element::bf16)
EMULATED_SPARSE_MMA(m16n8k32_row_col_f32_f16_f16_f32, emulator::Element::f16, float)
EMULATED_SPARSE_MMA(m16n8k32_row_col_f32_bf16_bf16_f32, emulator::Element::bf16, float)
EMULATED_SPARSE_MMA(m16n8k64_row_col_s32_s8_s8_s32, emulator::Element::s8, Register)
EMULATED_SPARSE_MMA(m16n8k64_row_col_s32_s8_u8_s32, emulator::Element::s8_u8, Register)
EMULATED_SPARSE_MMA(m16n8k64_row_col_f32_e4m3_e4m3_f32, emulator::Element::e4m3, float)
EMULATED_DENSE_MMA(m16n8k16_row_col_f32_f16_f16_f32, emulator::Element::f16, float)
EMULATED_DENSE_MMA(m16n8k16_row_col_f32_bf16_bf16_f32, emulator::Element::bf16, float)
EMULATED_DENSE_MMA(m16n8k32_row_col_s32_s8_s8_s32, emulator::Element::s8, Register)
EMULATED_DENSE_MMA(m16n8k32_row_col_s32_s8_u8_s32, emulator::Element::s8_u8, Register)
EMULATED_DENSE_MMA(m16n8k32_row_col_f32_e4m3_e4m3_f32, emulator::Element::e4m3, float)

using CUtensorMap = emulator::Map;
#define __grid_constant__
inline void ptx_setmaxnreg_dec_sync_aligned_u32(int) {}
inline void ptx_setmaxnreg_inc_sync_aligned_u32(int) {}
inline void ptx_fence_mbarrier_init_release_cluster() {}
inline void ptx_mbarrier_init_shared__cta_b64(Register at, Register arrivals) { emulator::init_barrier(at, arrivals); }
inline void ptx_mbarrier_arrive_shared__cta_b64(Register at) { emulator::arrive(at, 0); }
inline void ptx_mbarrier_arrive_expect_tx_shared__cta_b64(Register at, Register bytes) { emulator::arrive(at, bytes); }
inline void ptx_mbarrier_try_wait_parity_shared__cta_b64(Register& done, Register at, Register parity) {
  emulator::wait_phase(at, parity);
  done = 1;
}
inline void ptx_cp_async_bulk_shared__cluster_global_mbarrier__complete_tx__bytes(Register to, const void* from,
                                                                                  Register size, Register barrier) {
  emulator::copy_bulk(to, from, size, barrier);
}
inline void ptx_cp_async_bulk_tensor_2d_shared__cluster_global_mbarrier__complete_tx__bytes(
    Register to, const void* map, int column, int row, Register barrier) {
  emulator::copy_box(to, static_cast<const emulator::Map*>(map), column, row, barrier);
}

#include "cluster.h"
inline void ptx_fence_proxy_async_shared__cta() { emulator::publish_writes(); }
inline void ptx_wgmma_fence_sync_aligned() {}
inline void ptx_wgmma_commit_group_sync_aligned() { emulator::commit_products(); }
inline void ptx_wgmma_wait_group_sync_aligned(int pending) { emulator::wait_products(pending); }

// The sums are consecutive, from `sum` on; the fragment, descriptor and metadata follow them.
template <class Sum, class... Operands>
void emulated_wgmma(emulator::Element element, bool sparse, int columns, Sum& sum, const Operands&... rest) {
  const void* const all[] = {&rest...};
  const size_t sizes[] = {sizeof(rest)...};
  const void* const* o = all + columns / 2 - 1;
  emulator::GroupProduct product{element, sparse, columns, {}, nullptr, 0, 0, 0,
                                 reinterpret_cast<float*>(&sum)};
  if (sizes[columns / 2 - 1] == 8) {  // two descriptors
    memcpy(&product.left_descriptor, o[0], 8);
    memcpy(&product.descriptor, o[1], 8);
    return emulator::multiply_group(product);
  }
  for (int i = 0; i < 4; i++) product.left[i] = static_cast<const Register*>(o[i]);
  memcpy(&product.descriptor, o[4], 8);
  if (sparse) {
    product.metadata = static_cast<const Register*>(o[5]);
    memcpy(&product.selector, o[6], 4);
  }
  emulator::multiply_group(product);
}
#define EMULATED_WGMMA_FORM(name, element, sparse, columns)                    \
  template <class Sum, class... Operands>                                      \
  void ptx_wgmma_mma_async_##name(Sum& sum, const Operands&... rest) {         \
    emulated_wgmma(emulator::Element::element, sparse, columns, sum, rest...); \
  }
#define EMULATED_WGMMA(n)                                                         \
  EMULATED_WGMMA_FORM(sync_aligned_m64n##n##k16_f32_f16_f16, f16, false, n)       \
  EMULATED_WGMMA_FORM(sync_aligned_m64n##n##k16_f32_bf16_bf16, bf16, false, n)    \
  EMULATED_WGMMA_FORM(sync_aligned_m64n##n##k32_s32_s8_s8, s8, false, n)          \
  EMULATED_WGMMA_FORM(sync_aligned_m64n##n##k32_s32_s8_u8, s8_u8, false, n)       \
  EMULATED_WGMMA_FORM(sync_aligned_m64n##n##k32_f32_e4m3_e4m3, e4m3, false, n)    \
  EMULATED_WGMMA_FORM(sp_sync_aligned_m64n##n##k32_f32_f16_f16, f16, true, n)     \
  EMULATED_WGMMA_FORM(sp_sync_aligned_m64n##n##k32_f32_bf16_bf16, bf16, true, n)  \
  EMULATED_WGMMA_FORM(sp_sync_aligned_m64n##n##k64_s32_s8_s8, s8, true, n)        \
  EMULATED_WGMMA_FORM(sp_sync_aligned_m64n##n##k64_s32_s8_u8, s8_u8, true, n)     \
  EMULATED_WGMMA_FORM(sp_sync_aligned_m64n##n##k64_f32_e4m3_e4m3, e4m3, true, n)
EMULATED_WGMMA(16)
EMULATED_WGMMA(64)
EMULATED_WGMMA(128)
EMULATED_WGMMA(256)
