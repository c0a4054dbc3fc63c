#include "base/digest.h"

#include <fstream>
#include <vector>

#include <sodium.h>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/watchdog.h"

namespace dpldm {

struct Sha256::State {
  crypto_hash_sha256_state sodium;
};

Sha256::Sha256() : state_(std::make_unique<State>()) { crypto_hash_sha256_init(&state_->sodium); }
Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;

void Sha256::add(const void* bytes, std::size_t num_bytes) {
  crypto_hash_sha256_update(&state_->sodium, static_cast<const unsigned char*>(bytes), num_bytes);
}

std::string Sha256::finish() {
  std::array<unsigned char, crypto_hash_sha256_BYTES> digest{};
  crypto_hash_sha256_final(&state_->sodium, digest.data());
  std::string hex(2 * digest.size() + 1, '\0');
  sodium_bin2hex(hex.data(), hex.size(), digest.data(), digest.size());
  hex.pop_back();
  return hex;
}

std::string sha256_of(const std::string& bytes) {
  Sha256 digest;
  digest.add(bytes.data(), bytes.size());
  return digest.finish();
}

std::string sha256_of_file(const std::filesystem::path& path) {
  Sha256 digest;
  add_file(digest, path, 0);
  return digest.finish();
}

void add_file(Sha256& digest, const std::filesystem::path& path, std::uint64_t begin) {
  require_regular_file(path);
  std::ifstream stream;
  {
    const WatchedFileCall watched("opening", path);
    stream.open(path, std::ios::binary);
    stream.seekg(static_cast<std::streamoff>(begin));
  }
  if (!stream) throw IoError("cannot open " + path.string());
  std::vector<char> block(std::size_t{1} << 20);
  while (stream) {
    const WatchedFileCall watched("reading", path);
    stream.read(block.data(), static_cast<std::streamsize>(block.size()));
    digest.add(block.data(), static_cast<std::size_t>(stream.gcount()));
  }
  if (!stream.eof()) throw IoError("cannot read " + path.string() + " to its end");
}

}  // namespace dpldm
