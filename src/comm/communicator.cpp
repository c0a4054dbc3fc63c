#include "comm/communicator.h"

#include <algorithm>
#include <exception>
#include <sstream>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/digest.h"
#include "base/error.h"

namespace dpldm::comm {
namespace {

// Of a line that is quoted in a message.
constexpr std::size_t kMaxQuotedBytes = 200;

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

// The first line in which two texts differ, from both, cut to what fits a message. A text that ends before has none.
std::pair<std::string, std::string> first_difference(const std::string& a, const std::string& b) {
  const std::vector<std::string> lines_a = lines_of(a);
  const std::vector<std::string> lines_b = lines_of(b);
  const auto line = [](const std::vector<std::string>& lines, std::size_t i) {
    return i < lines.size() ? lines[i].substr(0, kMaxQuotedBytes) : std::string("nothing");
  };
  std::size_t i = 0;
  while (i < std::min(lines_a.size(), lines_b.size()) && lines_a[i] == lines_b[i]) ++i;
  return {line(lines_a, i), line(lines_b, i)};
}

}  // namespace

std::size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
    case DType::kInt32:
      return 4;
    case DType::kFloat64:
    case DType::kInt64:
      return 8;
    case DType::kUInt8:
      return 1;
  }
  throw InternalError(fmt::format("unknown element type {}", static_cast<int>(dtype)));
}

std::string to_text(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return "float32";
    case DType::kFloat64:
      return "float64";
    case DType::kInt32:
      return "int32";
    case DType::kInt64:
      return "int64";
    case DType::kUInt8:
      return "uint8";
  }
  throw InternalError(fmt::format("unknown element type {}", static_cast<int>(dtype)));
}

std::string broadcast_text(Communicator& comm, const std::string& text, int root) {
  auto num_bytes = static_cast<std::int64_t>(text.size());
  comm.broadcast(host_buffer(std::span(&num_bytes, 1)), root);
  std::string result = text;
  result.resize(static_cast<std::size_t>(num_bytes));
  comm.broadcast({result.data(), result.size(), DType::kUInt8, Place::kHost}, root);
  return result;
}

bool any_rank(Communicator& comm, bool value) {
  std::int32_t flag = value ? 1 : 0;
  comm.all_reduce_max(host_buffer(std::span(&flag, 1)));
  return flag != 0;
}

std::vector<std::string> gather_texts(Communicator& comm, std::string text, std::size_t max_length) {
  text.resize(max_length);
  std::string all(max_length * static_cast<std::size_t>(comm.size()), '\0');
  comm.all_gather({text.data(), text.size(), DType::kUInt8, Place::kHost},
                  {all.data(), all.size(), DType::kUInt8, Place::kHost});
  std::vector<std::string> texts;
  for (std::size_t at = 0; at < all.size(); at += max_length) texts.emplace_back(all.substr(at, max_length).c_str());
  return texts;
}

std::vector<int> ranks_that_differ(Communicator& comm, const std::string& digest) {
  const std::vector<std::string> all = gather_texts(comm, digest, digest.size());
  std::vector<int> different;
  for (int rank = 1; rank < comm.size(); ++rank) {
    if (all[static_cast<std::size_t>(rank)] != all[0]) different.push_back(rank);
  }
  return different;
}

void require_equal_on_all_ranks(Communicator& comm, const std::string& what, const std::string& text) {
  // Digests have one length on every rank, which the texts need not have.
  const std::vector<int> different = ranks_that_differ(comm, sha256_of(text));
  if (different.empty()) return;

  const std::string of_root = broadcast_text(comm, text, 0);
  const std::string of_other = broadcast_text(comm, text, different.front());
  const auto [here, there] = first_difference(of_root, of_other);
  throw ConfigError(fmt::format("{} must be the same on all ranks, but rank {} has '{}' where rank 0 has '{}'", what,
                                fmt::join(different, ", "), there, here));
}

void run_on_root(Communicator& comm, const std::function<void()>& work) {
  auto code = static_cast<std::int32_t>(ExitCode::kDone);
  std::string message;
  std::exception_ptr original;
  if (comm.is_root()) {
    try {
      work();
    } catch (const Error& error) {
      code = static_cast<std::int32_t>(error.code());
      message = error.what();
      original = std::current_exception();
    } catch (const std::exception& error) {
      code = static_cast<std::int32_t>(ExitCode::kInternal);
      message = error.what();
      original = std::current_exception();
    }
  }
  comm.broadcast(host_buffer(std::span(&code, 1)), 0);
  if (code == static_cast<std::int32_t>(ExitCode::kDone)) return;
  message = broadcast_text(comm, message);
  if (original) std::rethrow_exception(original);
  throw Error(static_cast<ExitCode>(code), message);
}

}  // namespace dpldm::comm
