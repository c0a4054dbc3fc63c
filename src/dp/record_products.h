// Products of sequences, one per record: the arithmetic under the rules of layer_gradient.h.
//
// With A_r [n, d] and G_r [n, p] one record's inputs and output gradients, its weight gradient is G_r^T A_r [p, d].
// These functions form it tile by tile in registers, so that a norm or a weighted sum needs no memory beyond two packed
// records. Inputs may be bf16, fp32 or fp64; products of bf16 are added up in fp32 (two at a time where the processor
// can), and squares of the result in fp64.
//
// The norm and the sum run through the same tile in the same order, so the vector that is added is, bit for bit, the
// one whose norm was taken, and what one record contributes does not depend on which others are in the micro-batch.
//
// On the CPU, instruction sets are chosen at run time: AMX, AVX-512 with bf16 products, AVX-512, AVX2, and what the
// compiler makes of the plain code. What lies on a device is worked on there (device_products.h), in fp32 and bf16
// only; factors and results must lie there too.
#pragma once

#include <cstdint>
#include <string>

namespace dpldm::dp {

enum class ElementType { kBFloat16, kFloat, kDouble };

// num_records x num_tokens x width values; strides in elements, of which one of the last two must be 1.
struct Sequences {
  const void* data = nullptr;
  ElementType type = ElementType::kFloat;
  std::int64_t num_records = 0;
  std::int64_t num_tokens = 0;
  std::int64_t width = 0;
  std::int64_t record_stride = 0;
  std::int64_t token_stride = 0;
  std::int64_t channel_stride = 1;
  bool on_device = false;  // where `data` points
};

// The two sides have one type, and equal records and tokens. Results are fp32, except where the input is fp64: `Real`
// is float or double accordingly. All run on LibTorch's threads; no result depends on their number.

// squared[r] += |G_r^T A_r|^2.
void add_product_norms(const Sequences& a, const Sequences& g, double* squared);
// The same from sum over token pairs (t, u) of (a_t . a_u) (g_t . g_u). Differs by rounding, which is bounded by
// gram_slack times |A_r|^2 |G_r|^2 while inner products are in the normal range.
void add_gram_norms(const Sequences& a, const Sequences& g, double* squared);
// Where the sum adds the very numbers whose squares were summed, only that summation rounds, by so much of itself: at
// most 81 times in fp32 (a square, 64 of them in a lane, 16 lanes), by 2^-24 each. Squares that underflow are lost; at
// the smallest clip norm that ClippedSum takes, those of a thousand million elements come to 1e-11 of its square.
double summation_slack(ElementType type);
// For each term of squared length computed by add_gram_norms: how far it may be from the squared length of the vector
// that add_weighted_products adds, as a multiple of |A_r|^2 |G_r|^2. Each entry of a product of length m is off by at
// most m u |x||y| (Higham 2002, section 3.5), however much of it cancels.
double gram_slack(const Sequences& a, const Sequences& g);
// sum [p, d] += sum over r of factors[r] G_r^T A_r. A record with factor 0 adds exactly nothing, not even where its
// values are not finite, and takes the same time.
template <class Real>
void add_weighted_products(const Sequences& a, const Sequences& g, const Real* factors, Real* sum);
// out [R, p, d] = G_r^T A_r.
template <class Real>
void form_products(const Sequences& a, const Sequences& g, Real* out);

// Bytes that these pack for themselves beside their arguments, at most: in all of LibTorch's threads together, and
// whatever the number of records. The type, tokens, widths and place of the two sides are asked, and nothing else. 0 on
// a device, whose kernels take one gradient of the layer or 8 MiB, and little for each record.
std::int64_t product_scratch_bytes(const Sequences& a, const Sequences& g);  // add_product_norms, form_products
std::int64_t gram_scratch_bytes(const Sequences& a, const Sequences& g);
std::int64_t weighted_scratch_bytes(const Sequences& a, const Sequences& g);

// energies[r] += sum of the squares of record r's values.
void add_energies(const Sequences& values, double* energies);
// out [R, width] = sum over tokens.
template <class Real>
void sum_tokens(const Sequences& values, Real* out);

// squared[r] += |values[r]|^2 for values [R, size]. `on_device`: where all pointers point.
template <class Real>
void add_squared_rows(const Real* values, std::int64_t num_records, std::int64_t size, double* squared, bool on_device);
// sum [size] += sum over r of factors[r] values[r]; factor 0 as above.
template <class Real>
void add_weighted_rows(const Real* values, std::int64_t num_records, std::int64_t size, const Real* factors, Real* sum,
                       bool on_device);

// On the CPU alone. What a normalisation's scale needs: x and the gradient of the scaled output, both contiguous [rows,
// ...], and `draws` adjacent rows per record. weight and bias [R, channels] are overwritten; either may be null.
struct NormalisedInput {
  const void* x = nullptr;
  const void* gradient = nullptr;
  ElementType type = ElementType::kFloat;
  const void* mean = nullptr;  // of `Real`
  const void* rstd = nullptr;  // of `Real`
  std::int64_t num_records = 0;
  std::int64_t draws = 1;
  std::int64_t channels = 0;
};
// x [rows, tokens, channels]; mean and rstd [rows, tokens].
template <class Real>
void layer_norm_gradients(const NormalisedInput& input, std::int64_t tokens, Real* weight, Real* bias);
// x [rows, channels, positions]; mean and rstd [rows, groups].
template <class Real>
void group_norm_gradients(const NormalisedInput& input, std::int64_t positions, std::int64_t groups, Real* weight,
                          Real* bias);

// "amx-bf16", "avx512-bf16", "avx512", "avx2", "generic": what this processor gets.
std::string instruction_set();
// For tests: false where the processor lacks it. "" chooses the best again.
bool use_instruction_set(const std::string& name);

}  // namespace dpldm::dp
