#include "dp/keystream.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include <sodium.h>

#include "base/error.h"
#include "cuda/noise_core.h"

namespace dpldm::dp {
namespace {

constexpr std::size_t kWordsPerBlock = 8;  // a ChaCha20 block has 64 bytes
constexpr std::size_t kWordsPerBatch = 1024;

static_assert(std::endian::native == std::endian::little, "streams are defined as little-endian words");

// A piece of stream on the stack that does not outlive its use.
struct Batch {
  std::array<std::uint64_t, kWordsPerBatch> words;
  ~Batch() { sodium_memzero(words.data(), sizeof(words)); }
};

}  // namespace

std::pair<double, double> gaussian_pair(std::uint64_t radius_word, std::uint64_t angle_word) {
  const cuda::NormalPair pair = cuda::normal_pair(radius_word, angle_word);
  return {pair.first, pair.second};
}

Keystream::Keystream(std::span<const std::uint8_t, SecretKey::kBytes> key, std::uint64_t nonce) : nonce_(nonce) {
  std::copy(key.begin(), key.end(), key_.begin());
}

Keystream::~Keystream() { sodium_memzero(key_.data(), key_.size()); }

void Keystream::words(std::uint64_t first, std::span<std::uint64_t> out) const {
  std::array<std::uint8_t, crypto_stream_chacha20_NONCEBYTES> nonce{};
  std::memcpy(nonce.data(), &nonce_, sizeof(nonce_));
  const auto fill = [&](std::uint64_t block, std::span<std::uint64_t> blocks) {
    std::fill(blocks.begin(), blocks.end(), std::uint64_t{0});  // the cipher is XORed onto its input
    auto* bytes = reinterpret_cast<unsigned char*>(blocks.data());
    crypto_stream_chacha20_xor_ic(bytes, bytes, blocks.size_bytes(), nonce.data(), block, key_.data());
  };

  // A first block that begins before `first`, then whole blocks and the beginning of a last one in place.
  const std::size_t skipped = first % kWordsPerBlock;
  std::uint64_t block = first / kWordsPerBlock;
  if (skipped != 0 && !out.empty()) {
    std::array<std::uint64_t, kWordsPerBlock> head{};
    fill(block++, head);
    const std::size_t taken = std::min(kWordsPerBlock - skipped, out.size());
    std::copy_n(head.begin() + static_cast<std::ptrdiff_t>(skipped), taken, out.begin());
    sodium_memzero(head.data(), sizeof(head));
    out = out.subspan(taken);
  }
  if (!out.empty()) fill(block, out);
}

std::uint64_t Keystream::word(std::uint64_t index) const {
  std::uint64_t value = 0;
  words(index, {&value, 1});
  return value;
}

template <class Take>
void Keystream::for_each_gaussian(std::uint64_t first, std::size_t count, const Take& take) const {
  Batch batch;
  std::size_t written = 0;
  while (written < count) {
    const std::uint64_t value = first + written;
    const std::uint64_t pair = value / 2;
    const std::size_t skipped = value % 2;  // the first pair's first half, when the range begins in its middle
    const std::size_t num_values = std::min(count - written, kWordsPerBatch - skipped);
    const std::size_t num_words = (skipped + num_values + 1) / 2 * 2;
    words(2 * pair, std::span(batch.words).first(num_words));
    for (std::size_t i = 0; i < num_words; i += 2) {
      const auto [even, odd] = gaussian_pair(batch.words[i], batch.words[i + 1]);
      const std::size_t at = i - skipped;  // wraps for the half that is left out
      if (at < num_values) take(written + at, even);
      if (at + 1 < num_values) take(written + at + 1, odd);
    }
    written += num_values;
  }
}

void Keystream::gaussians(std::uint64_t first, std::span<float> out, double deviation) const {
  for_each_gaussian(first, out.size(),
                    [&](std::size_t i, double value) { out[i] = static_cast<float>(deviation * value); });
}

void Keystream::rounded_gaussians(std::uint64_t first, std::span<std::int64_t> out, double deviation) const {
  for_each_gaussian(first, out.size(), [&](std::size_t i, double value) { out[i] = std::llround(deviation * value); });
}

}  // namespace dpldm::dp
