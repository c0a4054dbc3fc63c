// The header's parser. JSON is read as events, because a document object keeps the last of two equal keys silently.
#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <set>

#include <c10/core/ScalarType.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "io/safetensors.h"
#include "io/safetensors_types.h"

namespace dpldm::io {
namespace {

constexpr std::size_t kMaxTensors = 1'000'000;
constexpr std::size_t kMaxTensorNameBytes = 1024;
constexpr std::size_t kMaxTensorAxes = 16;

// Types that the format has and this program does not read: named, so that the message can say which.
constexpr std::array<std::string_view, 14> kUnsupportedTypes{
    "F4",          "F6_E2M3", "F6_E3M2", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ",
    "F8_E5M2FNUZ", "I8",      "I16",     "U16",     "U32",     "U64",     "C64"};

at::ScalarType dtype_named(const std::string& text, const std::string& tensor) {
  for (const SafetensorsType& type : kSafetensorsTypes) {
    if (type.name == text) return type.dtype;
  }
  if (std::find(kUnsupportedTypes.begin(), kUnsupportedTypes.end(), text) != kUnsupportedTypes.end()) {
    throw IoError(fmt::format("tensor '{}' has dtype {}, which is not supported", tensor, text));
  }
  throw IoError(fmt::format("tensor '{}' has the unknown dtype '{}'", tensor, text));
}

// Receives the parser's events. The grammar is small: an object of objects, whose values are strings or arrays of
// integers; anything else is refused where it appears, so nesting never goes deeper than three.
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit HeaderReader(SafetensorsHeader& header) : header_(header) {}

  bool start_object(std::size_t) override {
    if (depth_ == 2 || in_array_) refuse("an object inside " + place());
    ++depth_;
    if (depth_ == 2 && !in_metadata()) {
      entry_ = {};
      entry_.name = name_;
      seen_fields_.clear();
    }
    return true;
  }
  bool end_object() override {
    if (depth_ == 2 && !in_metadata()) finish_entry();
    --depth_;
    return true;
  }
  bool start_array(std::size_t) override {
    if (depth_ != 2 || in_array_ || in_metadata() || field_ == "dtype") refuse("an array in " + place());
    in_array_ = true;
    numbers_.clear();
    return true;
  }
  bool end_array() override {
    in_array_ = false;
    if (field_ == "shape") {
      shape_ = numbers_;
    } else {
      offsets_ = numbers_;
    }
    return true;
  }
  bool key(std::string& text) override {
    if (depth_ == 1) {
      if (!names_.insert(text).second) refuse(fmt::format("the name '{}' twice", text));
      if (names_.size() > kMaxTensors) refuse(fmt::format("more than {} tensors", kMaxTensors));
      if (text.empty() || text.size() > kMaxTensorNameBytes) {
        refuse(fmt::format("a name of {} bytes; 1 to {} are allowed", text.size(), kMaxTensorNameBytes));
      }
      name_ = text;
      return true;
    }
    if (in_metadata()) {
      if (header_.metadata.count(text) != 0) refuse(fmt::format("the metadata key '{}' twice", text));
    } else {
      if (text != "dtype" && text != "shape" && text != "data_offsets") {
        refuse(fmt::format("the unknown field '{}' in tensor '{}'", text, name_));
      }
      if (!seen_fields_.insert(text).second) refuse(fmt::format("the field '{}' twice in tensor '{}'", text, name_));
    }
    field_ = text;
    return true;
  }
  bool string(std::string& text) override {
    if (depth_ == 2 && in_metadata()) {
      header_.metadata[field_] = text;
      return true;
    }
    if (depth_ != 2 || in_array_ || field_ != "dtype") refuse("a string in " + place());
    entry_.dtype = dtype_named(text, name_);
    return true;
  }
  bool number_unsigned(std::uint64_t value) override {
    if (!in_array_) refuse("a number in " + place());
    if (numbers_.size() >= kMaxTensorAxes) refuse(fmt::format("more than {} numbers in {}", kMaxTensorAxes, place()));
    numbers_.push_back(value);
    return true;
  }
  bool number_integer(std::int64_t value) override { refuse(fmt::format("the number {} in {}", value, place())); }
  bool number_float(double, const std::string& text) override {
    refuse(fmt::format("the number {} in {}", text.substr(0, 40), place()));
  }
  bool null() override { refuse("null in " + place()); }
  bool boolean(bool) override { refuse("a boolean in " + place()); }
  bool binary(nlohmann::json::binary_t&) override { refuse("binary data in " + place()); }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception&) override {
    throw IoError(fmt::format("the header is not valid JSON (byte {})", position));
  }

 private:
  [[noreturn]] static void refuse(const std::string& what) { throw IoError("the header has " + what); }
  bool in_metadata() const { return name_ == "__metadata__"; }
  std::string place() const {
    if (depth_ == 0) return "place of the object";
    if (in_metadata()) return "__metadata__";
    return depth_ == 1 ? fmt::format("place of tensor '{}'", name_) : fmt::format("'{}' of '{}'", field_, name_);
  }

  void finish_entry() {
    if (seen_fields_.size() != 3) refuse(fmt::format("tensor '{}' without dtype, shape or data_offsets", name_));
    if (offsets_.size() != 2)
      refuse(fmt::format("{} data_offsets for tensor '{}'; there must be 2", offsets_.size(), name_));
    for (const std::uint64_t size : shape_) {
      if (size > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
        refuse(fmt::format("tensor '{}' with an axis of {}", name_, size));
      }
      entry_.shape.push_back(static_cast<std::int64_t>(size));
    }
    entry_.begin = offsets_[0];
    entry_.end = offsets_[1];
    header_.entries.push_back(std::move(entry_));
  }

  SafetensorsHeader& header_;
  int depth_ = 0;
  bool in_array_ = false;
  std::set<std::string> names_;
  std::set<std::string> seen_fields_;
  std::string name_;
  std::string field_;
  SafetensorsEntry entry_;
  std::vector<std::uint64_t> numbers_;
  std::vector<std::uint64_t> shape_;
  std::vector<std::uint64_t> offsets_;
};

std::uint64_t bytes_of(const SafetensorsEntry& entry) {
  // Strides are products of sizes too, in which a size of 0 counts as 1: they may overflow where there are no elements.
  auto bytes = static_cast<std::int64_t>(c10::elementSize(entry.dtype));
  for (const std::int64_t size : entry.shape) {
    if (__builtin_mul_overflow(bytes, std::max<std::int64_t>(size, 1), &bytes)) {
      throw IoError(fmt::format("the shape of tensor '{}' overflows", entry.name));
    }
  }
  const bool empty = std::count(entry.shape.begin(), entry.shape.end(), 0) > 0;
  return empty ? 0 : static_cast<std::uint64_t>(bytes);
}

void check_layout(SafetensorsHeader& header, std::uint64_t num_data_bytes) {
  // Tensors without elements share their offset with the next one and must come first, as the sizes alone would allow.
  std::sort(header.entries.begin(), header.entries.end(), [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
  });
  std::uint64_t expected = 0;
  for (const SafetensorsEntry& entry : header.entries) {
    if (entry.begin != expected || entry.end < entry.begin) {
      throw IoError(fmt::format("the data of tensor '{}' is at [{}, {}), but must begin at {}: a hole or an overlap",
                                entry.name, entry.begin, entry.end, expected));
    }
    if (entry.end - entry.begin != bytes_of(entry)) {
      throw IoError(fmt::format("tensor '{}' has {} bytes of data, but its shape needs {}", entry.name,
                                entry.end - entry.begin, bytes_of(entry)));
    }
    expected = entry.end;
  }
  if (expected != num_data_bytes) {
    throw IoError(fmt::format("the header describes {} bytes of data, but there are {}", expected, num_data_bytes));
  }
}

}  // namespace

SafetensorsHeader parse_safetensors_header(std::string_view json, std::uint64_t num_data_bytes,
                                           const std::string& where) {
  try {
    if (json.empty() || json.front() != '{') throw IoError("the header does not begin with '{'");
    if (json.find('\0') != std::string_view::npos)
      throw IoError("the header holds a zero byte");  // the parser would end there
    SafetensorsHeader header;
    HeaderReader reader(header);
    nlohmann::json::sax_parse(json.begin(), json.end(), &reader);
    check_layout(header, num_data_bytes);
    return header;
  } catch (const IoError& error) {
    throw IoError(where + ": " + error.what());
  }
}

}  // namespace dpldm::io
