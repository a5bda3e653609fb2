// What emulated kernels call: barriers, warp-wide instructions and checked shared memory (see scheduler.cpp).
#pragma once
#include <cstddef>
#include <cstdint>

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace emulator {

extern dim3 thread_index, block_index, block_size, grid_size, cluster_extents;

enum class Shuffle { absolute, up, down, exclusive };
enum class Element { f16, bf16, s8, s8_u8, e4m3 };  // s8_u8: signed weights, unsigned activations
float from_e4m3(uint8_t bits);
uint8_t to_e4m3(float value);  // to nearest even, saturated at 448

void barrier();       // __syncthreads
void warp_barrier();  // __syncwarp
void arrive_cluster();
void wait_cluster();
void wait_for_grids();  // griddepcontrol.wait
unsigned active_mask();
void shuffle(void* value, size_t size, Shuffle kind, int operand, int width);

char* shared_memory();
uint32_t shared_address(const void* pointer);
void load(void* to, uint32_t at, size_t size);
void store(uint32_t at, const void* from, size_t size);
uint32_t address_in(uint32_t at, unsigned rank);  // of an address in another block of the cluster
void load_of_cluster(void* to, uint32_t at, size_t size);
void check_global(const void* pointer, size_t size);

// The destination is poisoned now, and holds the data once this thread has waited for the copy's group.
void copy_async(uint32_t to, const void* from, size_t size, size_t valid);
void commit_copies();
void wait_copies(unsigned pending);

void load_matrices(uint32_t* registers, uint32_t row, int count, bool transposed);

// mbarriers, and the bulk copies that complete them some time later.
void init_barrier(uint32_t at, unsigned arrivals);
void arrive(uint32_t at, size_t bytes);
void wait_phase(uint32_t at, unsigned parity);
void copy_bulk(uint32_t to, const void* from, size_t size, uint32_t barrier);
// A map of a matrix: its columns are contiguous, and rows of a box are 128 bytes in the 128-byte swizzle.
struct Map {
  const char* base;
  uint64_t columns, rows, stride;  // the last in bytes
  uint32_t box_columns, box_rows, itemsize;
};
void copy_box(uint32_t to, const Map* map, int column, int row, uint32_t barrier);

struct Product {
  Element element;
  bool sparse;
  uint32_t left[4], right[4], sums[4];  // sums are float or int32
  uint32_t metadata;
  int selector;
};
void multiply(Product& product);

// wgmma.mma_async: the activations come from shared memory. Until this thread has waited for the product's group, the
// sums are poison, and neither the activations nor the registers may change.
struct GroupProduct {
  Element element;
  bool sparse;
  int columns;
  const uint32_t *left[4], *metadata;  // no registers where the weight comes from shared memory, too
  uint64_t descriptor, left_descriptor;
  int selector;
  float* sums;
};
void multiply_group(const GroupProduct& product);
void commit_products();
void wait_products(size_t pending);
void publish_writes();  // fence.proxy.async

}  // namespace emulator

inline void ptx_prefetch_global_L2(const char* at) { emulator::check_global(at, 1); }
