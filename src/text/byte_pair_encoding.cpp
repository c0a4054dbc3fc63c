#include "text/byte_pair_encoding.h"

#include <queue>
#include <tuple>

#include <fmt/format.h>

#include "base/error.h"
#include "text/unicode.h"

namespace dpldm::text {
namespace {

constexpr const char* kEndOfWord = "</w>";

// GPT-2's printable stand-in for each byte: itself where Latin-1 prints, else the next code point from 256 on.
std::array<char32_t, 256> byte_symbols() {
  std::array<char32_t, 256> symbols{};
  char32_t next = 256;
  for (char32_t byte = 0; byte < 256; ++byte) {
    const bool prints = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    symbols.at(byte) = prints ? byte : next++;
  }
  return symbols;
}

std::uint64_t key_of(std::int32_t left, std::int32_t right) {
  return (static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32) | static_cast<std::uint32_t>(right);
}

// A symbol in the list of a word's symbols; -1 ends the list.
struct Symbol {
  std::int32_t id = 0;
  std::int32_t previous = -1;
  std::int32_t next = -1;
  bool gone = false;  // merged into its left neighbour
};

}  // namespace

BytePairEncoding::BytePairEncoding(const TokenizerDefinition& definition) {
  const auto id_of = [&](const std::string& symbol) {
    const auto found = definition.vocabulary.find(symbol);
    return found == definition.vocabulary.end() ? -1 : found->second;
  };
  const std::array<char32_t, 256> symbols = byte_symbols();
  for (std::size_t byte = 0; byte < symbols.size(); ++byte) {
    const std::string symbol = to_utf8(std::u32string_view(&symbols.at(byte), 1));
    byte_ids_.at(byte) = id_of(symbol);
    last_byte_ids_.at(byte) = id_of(symbol + kEndOfWord);
  }
  if (!definition.unknown.empty()) unknown_ = id_of(definition.unknown);
  merges_.reserve(definition.merges.size());
  for (std::size_t rank = 0; rank < definition.merges.size(); ++rank) {
    const auto& [left, right] = definition.merges[rank];
    const std::int32_t result = id_of(left + right);
    if (id_of(left) < 0 || id_of(right) < 0 || result < 0) {
      throw ConfigError(
          fmt::format("the merge '{} {}' has a part or a result that is not in the vocabulary", left, right));
    }
    merges_[key_of(id_of(left), id_of(right))] = {static_cast<std::int32_t>(rank), result};
  }
}

const BytePairEncoding::Merge* BytePairEncoding::merge_of(std::int32_t left, std::int32_t right) const {
  const auto found = merges_.find(key_of(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

void BytePairEncoding::add_word(std::string_view word, std::vector<std::int32_t>& ids) const {
  std::vector<Symbol> symbols;
  symbols.reserve(word.size());
  for (std::size_t i = 0; i < word.size(); ++i) {
    const auto byte = static_cast<unsigned char>(word[i]);
    std::int32_t id = i + 1 == word.size() ? last_byte_ids_.at(byte) : byte_ids_.at(byte);
    if (id < 0) id = unknown_;
    if (id < 0) continue;
    const auto here = static_cast<std::int32_t>(symbols.size());
    if (here > 0) symbols.back().next = here;
    symbols.push_back({id, here - 1, -1, false});
  }

  // (rank, position of the left symbol, result). Entries whose symbols have changed since are passed over.
  using Candidate = std::tuple<std::int32_t, std::int32_t, std::int32_t>;
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto symbol = [&](std::int32_t at) -> Symbol& { return symbols[static_cast<std::size_t>(at)]; };
  const auto consider = [&](std::int32_t left) {
    if (left < 0 || symbol(left).next < 0) return;
    if (const Merge* merge = merge_of(symbol(left).id, symbol(symbol(left).next).id)) {
      queue.emplace(merge->rank, left, merge->result);
    }
  };
  for (std::size_t i = 0; i < symbols.size(); ++i) consider(static_cast<std::int32_t>(i));
  while (!queue.empty()) {
    const auto [rank, left, result] = queue.top();
    queue.pop();
    if (symbol(left).gone || symbol(left).next < 0) continue;
    Symbol& right = symbol(symbol(left).next);
    const Merge* merge = merge_of(symbol(left).id, right.id);
    if (merge == nullptr || merge->result != result) continue;
    right.gone = true;
    symbol(left).id = result;
    symbol(left).next = right.next;
    if (right.next >= 0) symbol(right.next).previous = left;
    consider(symbol(left).previous);
    consider(left);
  }
  for (const Symbol& rest : symbols) {
    if (!rest.gone) ids.push_back(rest.id);
  }
}

}  // namespace dpldm::text
