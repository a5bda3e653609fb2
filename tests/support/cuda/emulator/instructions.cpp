// Instructions of whole warps: they wait for every live lane and check that all lanes execute the same one.
#include <algorithm>
#include <cmath>

#include "state.h"

namespace emulator {
namespace {

bool of_bytes(Element element) { return element != Element::f16 && element != Element::bf16; }
bool of_integers(Element element) { return element == Element::s8 || element == Element::s8_u8; }

float to_float(uint16_t bits, Element element) {
  if (element == Element::bf16) {
    uint32_t wide = static_cast<uint32_t>(bits) << 16;
    float value;
    memcpy(&value, &wide, 4);
    return value;
  }
  _Float16 value;
  memcpy(&value, &bits, 2);
  return value;
}

// Which of a group's four inputs a compressed column multiplies.
int position(Product** lanes, int row, int column) {
  int group = column / 2, selector = lanes[0]->selector;
  bool bytes = of_bytes(lanes[0]->element);
  int lane = row % 8 * 4 + (bytes ? group / 8 * 2 + row / 8 : selector * 2 + group / 4);
  int shift = bytes ? group % 8 * 4 : row / 8 * 16 + group % 4 * 4;
  unsigned nibble = lanes[lane]->metadata >> shift & 15;
  if ((nibble & 3) >= nibble >> 2) fail("mma.sp: the metadata's positions do not rise");
  return column % 2 ? nibble >> 2 : nibble & 3;
}

// mma.m16n8: lane 4g + t holds rows g and g + 8 of the left operand and column g of the right one.
template <class Sum>
void multiply_warp(Product** lanes) {
  const Product& first = *lanes[0];
  bool bytes = of_bytes(first.element);
  int word = bytes ? 4 : 2, columns = 8 * word, depth = first.sparse ? 2 * columns : columns;
  static Sum left[16][64], right[64][8];
  memset(left, 0, sizeof left);
  auto value = [&](const uint32_t* registers, int i, bool right = false) -> Sum {
    auto byte = reinterpret_cast<const uint8_t*>(registers);
    if (first.element == Element::e4m3) return static_cast<Sum>(from_e4m3(byte[i]));
    if (first.element == Element::s8_u8 && right) return byte[i];
    if (bytes) return static_cast<int8_t>(byte[i]);
    return static_cast<Sum>(to_float(reinterpret_cast<const uint16_t*>(registers)[i], first.element));
  };
  for (int lane = 0; lane < kLanes; lane++) {
    int g = lane / 4, t = lane % 4;
    if (lanes[lane]->selector != first.selector) fail("mma.sp: lanes differ in the sparsity selector");
    if (bytes && first.selector) fail("mma.sp: all lanes have metadata of bytes, which no selector but 0 names");
    for (int i = 0; i < 4 * word; i++) {
      int row = g + i / word % 2 * 8, column = i / word / 2 * (columns / 2) + t * word + i % word;
      int k = first.sparse ? column / 2 * 4 + position(lanes, row, column) : column;
      left[row][k] = value(lanes[lane]->left, i);
    }
    for (int i = 0; i < depth / 4; i++) right[i / word * 4 * word + t * word + i % word][g] = value(lanes[lane]->right, i, true);
  }
  for (int lane = 0; lane < kLanes; lane++)
    for (int i = 0; i < 4; i++) {
      int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
      Sum sum;
      memcpy(&sum, &lanes[lane]->sums[i], 4);
      for (int k = 0; k < depth; k++) sum += left[row][k] * right[k][column];
      memcpy(&lanes[lane]->sums[i], &sum, 4);
    }
}

// A column's word of four bytes along K, behind a descriptor of the 128-byte swizzle (PTX ISA, "Matrix descriptor").
uint32_t load_column(uint64_t descriptor, int column, int byte) {
  if (descriptor >> 62 != 1 || (descriptor >> 32 & 0x3FFF) != 64) fail("wgmma: a descriptor that is not emulated");
  uint32_t at = (descriptor & 0x3FFF) << 4;
  at += column * 128 + byte;
  at ^= (at >> 7 & 7) << 4;
  note_read(at, 4);
  if (words[at / 4].unpublished) fail("wgmma: a read of what no fence.proxy.async has published");
  words[at / 4].multiplied++;
  current->products.words.push_back(at / 4);
  uint32_t word;
  memcpy(&word, shared + at, 4);
  return word;
}

}  // namespace

float from_e4m3(uint8_t bits) {
  int exponent = bits >> 3 & 15, mantissa = bits & 7;
  if ((bits & 127) == 127) return NAN;
  float value = exponent ? ldexpf(8 + mantissa, exponent - 10) : ldexpf(mantissa, -9);
  return bits & 128 ? -value : value;
}

uint8_t to_e4m3(float value) {
  if (value != value) return 127;
  uint8_t sign = std::signbit(value) ? 128 : 0;
  value = fabsf(value);
  if (value >= 448) return sign | 126;
  int exponent = std::max(-6, value > 0 ? std::ilogb(value) : -6);
  int steps = static_cast<int>(nearbyintf(ldexpf(value, 3 - exponent)));  // 8 to 16 of them, fewer where subnormal
  return sign | ((exponent + 6) * 8 + steps);  // a mantissa that rounds up to 16 carries into the exponent
}

void warp_barrier() {
  char nothing = 0;
  warp_wide<char>("__syncwarp", nothing, [](char**) { warps[current->warp].epoch++; });
}

unsigned active_mask() {
  unsigned mask = 0;
  for (const Thread& thread : threads)
    if (thread.warp == current->warp && !thread.done) mask |= 1u << thread.lane;
  return mask;
}

void shuffle(void* value, size_t size, Shuffle kind, int operand, int width) {
  struct Operands {
    char value[8], result[8];
    size_t size;
    Shuffle kind;
    int operand, width;
  } mine{{}, {}, size, kind, operand, width};
  memcpy(mine.value, value, size);
  warp_wide<Operands>("shuffle", mine, [](Operands** lanes) {
    for (int lane = 0; lane < kLanes; lane++) {
      if (!lanes[lane]) continue;
      Operands& o = *lanes[lane];
      int first = lane / o.width * o.width, source = lane;
      if (o.kind == Shuffle::absolute) source = first + o.operand % o.width;
      if (o.kind == Shuffle::up) source = lane - o.operand < first ? lane : lane - o.operand;
      if (o.kind == Shuffle::down) source = lane + o.operand >= first + o.width ? lane : lane + o.operand;
      if (o.kind == Shuffle::exclusive) source = lane ^ o.operand;
      if (lanes[source]) memcpy(o.result, lanes[source]->value, o.size);
      else memset(o.result, 0xff, o.size);  // undefined on a GPU: reductions of few threads do not use it
    }
  });
  memcpy(value, mine.result, size);
}

void load_matrices(uint32_t* registers, uint32_t row, int count, bool transposed) {
  struct Operands {
    uint32_t registers[4], row;
    int count;
    bool transposed;
  } mine{{}, row, count, transposed};
  require_full_warp("ldmatrix");
  if (current->lane < 8 * count) note_read(row, 16);
  warp_wide<Operands>("ldmatrix", mine, [](Operands** lanes) {
    for (int matrix = 0; matrix < lanes[0]->count; matrix++) {
      uint16_t x[8][8];
      unsigned banks = 0;
      for (int r = 0; r < 8; r++) {
        uint32_t at = lanes[matrix * 8 + r]->row;
        unsigned bank = 1u << at / 16 % (kBanks / 4);
        statistics[1]++;
        statistics[2] += (banks & bank) != 0;
        banks |= bank;
        memcpy(x[r], shared + at, 16);
      }
      for (int lane = 0; lane < kLanes; lane++) {
        int i = lane / 4, j = lane % 4 * 2;
        bool t = lanes[lane]->transposed;
        lanes[lane]->registers[matrix] = (t ? x[j][i] : x[i][j]) | (t ? x[j + 1][i] : x[i][j + 1]) << 16;
      }
    }
  });
  memcpy(registers, mine.registers, 4 * count);
}

void multiply(Product& product) {
  require_full_warp("mma");
  static const char* names[2][5] = {
      {"mma.f16", "mma.bf16", "mma.s8", "mma.s8.u8", "mma.e4m3"},
      {"mma.sp.f16", "mma.sp.bf16", "mma.sp.s8", "mma.sp.s8.u8", "mma.sp.e4m3"}};
  const char* name = names[product.sparse][static_cast<int>(product.element)];
  warp_wide<Product>(name, product, of_integers(product.element) ? multiply_warp<int32_t> : multiply_warp<float>);
}

void multiply_group(const GroupProduct& p) {
  require_full_warp("wgmma");
  Thread& self = *current;
  int g = self.lane / 4, t = self.lane % 4;
  Product product{p.element, p.sparse, {}, {}, {}, p.metadata ? *p.metadata : 0, p.selector};
  if (p.metadata) self.products.registers.push_back({p.metadata, *p.metadata});
  for (int i = 0; i < 4; i++) {
    if (p.left_descriptor) {  // rows g and g + 8 of the warp's 16, both halves of 16 inputs
      product.left[i] = load_column(p.left_descriptor, self.warp % 4 * 16 + g + i % 2 * 8, i / 2 * 16 + t * 4);
      continue;
    }
    product.left[i] = *p.left[i];
    self.products.registers.push_back({p.left[i], *p.left[i]});
  }
  for (int block = 0; block < p.columns / 8; block++) {
    for (int i = 0; i < (p.sparse ? 4 : 2); i++)
      product.right[i] = load_column(p.descriptor, block * 8 + g, i * 16 + t * 4);
    float* sums = p.sums + block * 4;
    auto pending = std::find_if(self.sums.begin(), self.sums.end(), [&](const Sum& s) { return s.at == sums; });
    for (int i = 0; i < 4; i++) memcpy(&product.sums[i], pending == self.sums.end() ? &sums[i] : &pending[i].value, 4);
    size_t known = pending - self.sums.begin();
    multiply(product);
    if (known == self.sums.size())
      for (int i = 0; i < 4; i++) self.sums.push_back({sums + i, 0, 0});
    for (int i = 0; i < 4; i++) {
      memcpy(&self.sums[known + i].value, &product.sums[i], 4);
      self.sums[known + i].group = self.ended_groups + self.product_groups.size();
      memset(&sums[i], 0xFF, 4);
    }
  }
}

void commit_products() {
  current->product_groups.push_back(std::move(current->products));
  current->products = {};
}

void wait_products(size_t pending) {
  Thread& self = *current;
  for (; self.product_groups.size() > pending; self.product_groups.pop_front(), self.ended_groups++) {
    for (uint32_t word : self.product_groups.front().words) words[word].multiplied--;
    for (auto [at, value] : self.product_groups.front().registers)
      if (*at != value) fail("wgmma: a register of a fragment changed before its product had ended");
  }
  std::erase_if(self.sums, [&](const Sum& sum) {
    bool ended = sum.group < self.ended_groups;
    if (ended) *sum.at = sum.value;
    return ended;
  });
  char nothing = 0;
  warp_wide<char>("wgmma.wait_group", nothing, [](char**) {});  // no lane goes on before all have
}

}  // namespace emulator
