// SHA-256 of bytes and of files, as lower-case hexadecimal.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

namespace dpldm {

// A digest over pieces, in the order they are added.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;

  void add(const void* bytes, std::size_t num_bytes);
  // 64 hexadecimal digits. Ends the digest: add nothing after it.
  std::string finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

std::string sha256_of(const std::string& bytes);

// Throws IoError when the file cannot be read to its end.
std::string sha256_of_file(const std::filesystem::path& path);

// Adds the file from byte `begin` on; throws as above.
void add_file(Sha256& digest, const std::filesystem::path& path, std::uint64_t begin);

}  // namespace dpldm
