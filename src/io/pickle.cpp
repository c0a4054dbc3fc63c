#include "io/pickle.h"

#include <bit>
#include <charconv>
#include <cstring>
#include <unordered_map>

#include <fmt/format.h>

#include "base/error.h"
#include "io/pickle_calls.h"

namespace dpldm::io {
namespace {

// The largest published checkpoints with optimiser state have a few hundred thousand.
constexpr std::size_t kMaxValues = 1'000'000;
constexpr std::size_t kMaxItems = 4'000'000;  // of all containers together
constexpr std::size_t kMaxStack = 1'000'000;
constexpr std::size_t kMaxNameBytes = 1000;  // names are copied each time they are mentioned
constexpr std::size_t kMaxPrintedBytes = 200;

// Python's names for them, protocol 2 and later.
enum Opcode : unsigned char {
  kMark = '(',
  kStop = '.',
  kPop = '0',
  kPopMark = '1',
  kFloatText = 'F',
  kIntText = 'I',
  kBinInt = 'J',
  kBinInt1 = 'K',
  kBinInt2 = 'M',
  kNone = 'N',
  kBinPersId = 'Q',
  kReduce = 'R',
  kBinString = 'T',
  kShortBinString = 'U',
  kBinUnicode = 'X',
  kAppend = 'a',
  kBuild = 'b',
  kGlobal = 'c',
  kDict = 'd',
  kEmptyDict = '}',
  kAppends = 'e',
  kBinGet = 'h',
  kInst = 'i',
  kLongBinGet = 'j',
  kList = 'l',
  kEmptyList = ']',
  kBinPut = 'q',
  kLongBinPut = 'r',
  kSetItem = 's',
  kTuple = 't',
  kEmptyTuple = ')',
  kSetItems = 'u',
  kBinFloat = 'G',
  kBinBytes = 'B',
  kShortBinBytes = 'C',
  kProto = 0x80,
  kNewObj = 0x81,
  kTuple1 = 0x85,
  kTuple2 = 0x86,
  kTuple3 = 0x87,
  kNewTrue = 0x88,
  kNewFalse = 0x89,
  kLong1 = 0x8a,
  kLong4 = 0x8b,
  kShortBinUnicode = 0x8c,
  kBinUnicode8 = 0x8d,
  kBinBytes8 = 0x8e,
  kEmptySet = 0x8f,
  kAddItems = 0x90,
  kFrozenSet = 0x91,
  kNewObjEx = 0x92,
  kStackGlobal = 0x93,
  kMemoize = 0x94,
  kFrame = 0x95,
};

bool is_container(PickleKind kind) {
  return kind == PickleKind::kList || kind == PickleKind::kSet || kind == PickleKind::kDict ||
         kind == PickleKind::kTuple;
}

// A name as it may be shown: the file is anybody's, and so is what it does to a terminal.
std::string printed(const std::string& name) {
  std::string text = name.substr(0, kMaxPrintedBytes);
  for (char& c : text) {
    if (c <= ' ' || c > '~') c = '?';
  }
  return text;
}

}  // namespace

const PickleValue* PickleValue::find(std::string_view key) const {
  if (kind != PickleKind::kDict) return nullptr;
  for (std::size_t i = items.size(); i >= 2; i -= 2) {
    if (items[i - 2]->kind == PickleKind::kText && items[i - 2]->text == key) return items[i - 1];
  }
  return nullptr;
}

// The stack machine.
class PickleReader {
 public:
  PickleReader(std::string_view bytes, const std::string& where, ForeignNames& foreign_names, Pickle& result)
      : bytes_(bytes), where_(where), foreign_names_(foreign_names), result_(result) {}

  void run() {
    for (;;) {
      const auto opcode = static_cast<unsigned char>(take(1).front());
      if (opcode == kStop) break;
      if (!literal(opcode) && !container(opcode) && !memo(opcode) && !object(opcode)) {
        fail(fmt::format("has the opcode 0x{:02x}, which is not read", opcode));
      }
    }
    result_.value_ = pop();
    result_.num_bytes_ = position_;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw IoError(fmt::format("{}: the pickle {} (byte {})", where_, what, position_));
  }

  std::string_view take(std::uint64_t count) {
    if (count > bytes_.size() - position_) fail("ends too early");
    const std::string_view taken = bytes_.substr(position_, count);
    position_ += count;
    return taken;
  }

  // Little-endian, without sign.
  std::uint64_t unsigned_integer(std::size_t num_bytes) {
    std::uint64_t value = 0;
    std::size_t shift = 0;
    for (const char c : take(num_bytes)) {
      value |= static_cast<std::uint64_t>(static_cast<unsigned char>(c)) << shift;
      shift += 8;
    }
    return value;
  }

  std::string_view line() {
    const std::size_t end = bytes_.find('\n', position_);
    if (end == std::string_view::npos) fail("ends too early");
    const std::string_view text = bytes_.substr(position_, end - position_);
    position_ = end + 1;
    return text;
  }

  PickleValue* create(PickleKind kind) {
    if (result_.values_.size() >= kMaxValues) fail("has too many values");
    result_.values_.emplace_back().kind = kind;
    return &result_.values_.back();
  }

  void push(PickleValue* value) {
    if (stack_.size() >= kMaxStack) fail("needs too deep a stack");
    stack_.push_back(value);
  }

  PickleValue* pop() {
    if (stack_.size() <= (marks_.empty() ? 0 : marks_.back())) fail("takes from an empty stack");
    PickleValue* value = stack_.back();
    stack_.pop_back();
    return value;
  }

  PickleValue* top() {
    PickleValue* value = pop();
    stack_.push_back(value);
    return value;
  }

  void count_items(std::size_t more) {
    num_items_ += more;
    if (num_items_ > kMaxItems) fail("has too many values");
  }

  // What lies above the last mark; both are gone then.
  std::vector<const PickleValue*> pop_to_mark() {
    if (marks_.empty()) fail("goes back to a mark that was not set");
    const auto begin = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
    std::vector<const PickleValue*> items(begin, stack_.end());
    stack_.erase(begin, stack_.end());
    marks_.pop_back();
    count_items(items.size());
    return items;
  }

  void push_integer(std::int64_t value, PickleKind kind = PickleKind::kInteger) {
    PickleValue* created = create(kind);
    created->integer = value;
    push(created);
  }

  void push_text(std::string_view text, PickleKind kind) {
    PickleValue* created = create(kind);
    created->text = text;
    push(created);
  }

  // A two's complement number of any length; one that does not fit into 64 bits is opaque, but for the magic number of
  // old archives it is never looked at, and that one is kept as its bytes.
  void push_long(std::uint64_t num_bytes) {
    const std::string_view digits = take(num_bytes);
    if (digits.size() > 8) {
      PickleValue* big = create(PickleKind::kOpaque);
      big->text = digits.substr(0, 32);
      return push(big);
    }
    std::uint64_t value = !digits.empty() && (digits.back() & 0x80) != 0 ? ~std::uint64_t{0} : 0;
    for (std::size_t i = digits.size(); i > 0; --i) {
      value = (value << 8) | static_cast<unsigned char>(digits[i - 1]);
    }
    push_integer(static_cast<std::int64_t>(value));
  }

  template <typename Number>
  Number number_from(std::string_view text) {
    Number value{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size()) fail("has a number that is none");
    return value;
  }

  void push_real(double value) {
    PickleValue* created = create(PickleKind::kReal);
    created->real = value;
    push(created);
  }

  void push_int_text() {
    const std::string_view text = line();
    if (text == "00" || text == "01") return push_integer(text == "01" ? 1 : 0, PickleKind::kBool);
    push_integer(number_from<std::int64_t>(text));
  }

  void push_binary_real() {
    const std::string_view big_endian = take(8);
    std::uint64_t bits = 0;
    for (const char c : big_endian) bits = (bits << 8) | static_cast<unsigned char>(c);
    push_real(std::bit_cast<double>(bits));
  }

  bool literal(unsigned char opcode) {
    switch (opcode) {
      case kProto:
        if (unsigned_integer(1) > 5) fail("is of a protocol above 5");
        return true;
      case kFrame:
        unsigned_integer(8);
        return true;
      case kNone:
        push(create(PickleKind::kNone));
        return true;
      case kNewTrue:
      case kNewFalse:
        push_integer(opcode == kNewTrue ? 1 : 0, PickleKind::kBool);
        return true;
      case kBinInt:
        push_integer(static_cast<std::int32_t>(unsigned_integer(4)));
        return true;
      case kBinInt1:
      case kBinInt2:
        push_integer(static_cast<std::int64_t>(unsigned_integer(opcode == kBinInt1 ? 1 : 2)));
        return true;
      case kLong1:
      case kLong4:
        push_long(unsigned_integer(opcode == kLong1 ? 1 : 4));
        return true;
      case kIntText:
        push_int_text();
        return true;
      case kFloatText:
        push_real(number_from<double>(line()));
        return true;
      case kBinFloat:
        push_binary_real();
        return true;
      case kBinUnicode:
      case kShortBinUnicode:
      case kBinUnicode8:
        push_text(take(unsigned_integer(opcode == kBinUnicode        ? 4
                                        : opcode == kShortBinUnicode ? 1
                                                                     : 8)),
                  PickleKind::kText);
        return true;
      case kBinString:
      case kShortBinString:  // Python 2's texts
        push_text(take(unsigned_integer(opcode == kBinString ? 4 : 1)), PickleKind::kText);
        return true;
      case kBinBytes:
      case kShortBinBytes:
      case kBinBytes8:
        push_text(take(unsigned_integer(opcode == kBinBytes        ? 4
                                        : opcode == kShortBinBytes ? 1
                                                                   : 8)),
                  PickleKind::kBytes);
        return true;
      default:
        return false;
    }
  }

  void push_items(PickleKind kind, std::vector<const PickleValue*> items) {
    if (kind == PickleKind::kDict && items.size() % 2 != 0) fail("has a dictionary with a key and no value");
    PickleValue* created = create(kind);
    created->items = std::move(items);
    push(created);
  }

  void push_tuple(std::size_t size) {
    std::vector<const PickleValue*> items(size);
    for (std::size_t i = size; i > 0; --i) items[i - 1] = pop();
    push_items(PickleKind::kTuple, std::move(items));
  }

  // Adds to the container on top of the stack. What is opaque takes anything and keeps nothing.
  void extend(PickleKind kind, const std::vector<const PickleValue*>& items) {
    PickleValue* target = top();
    if (target->kind == PickleKind::kOpaque) return;
    if (target->kind != kind) fail("adds to something that it cannot add to");
    if (kind == PickleKind::kDict && items.size() % 2 != 0) fail("has a dictionary with a key and no value");
    target->items.insert(target->items.end(), items.begin(), items.end());
  }

  void extend_by_last(PickleKind kind, std::size_t count) {
    std::vector<const PickleValue*> items(count);
    for (std::size_t i = count; i > 0; --i) items[i - 1] = pop();
    extend(kind, items);
  }

  bool container(unsigned char opcode) {
    switch (opcode) {
      case kMark:
        if (marks_.size() >= kMaxStack) fail("needs too deep a stack");
        marks_.push_back(stack_.size());
        return true;
      case kPop:
        pop();
        return true;
      case kPopMark:
        pop_to_mark();
        return true;
      case kEmptyDict:
      case kEmptyList:
      case kEmptyTuple:
      case kEmptySet:
        push(create(opcode == kEmptyDict    ? PickleKind::kDict
                    : opcode == kEmptyList  ? PickleKind::kList
                    : opcode == kEmptyTuple ? PickleKind::kTuple
                                            : PickleKind::kSet));
        return true;
      case kDict:
      case kList:
      case kTuple:
      case kFrozenSet:
        push_items(opcode == kDict    ? PickleKind::kDict
                   : opcode == kList  ? PickleKind::kList
                   : opcode == kTuple ? PickleKind::kTuple
                                      : PickleKind::kSet,
                   pop_to_mark());
        return true;
      case kTuple1:
      case kTuple2:
      case kTuple3:
        push_tuple(static_cast<std::size_t>(opcode - kTuple1) + 1);
        return true;
      case kSetItem:
        extend_by_last(PickleKind::kDict, 2);
        return true;
      case kAppend:
        extend_by_last(PickleKind::kList, 1);
        return true;
      case kSetItems:
        extend(PickleKind::kDict, pop_to_mark());
        return true;
      case kAppends:
        extend(PickleKind::kList, pop_to_mark());
        return true;
      case kAddItems:
        extend(PickleKind::kSet, pop_to_mark());
        return true;
      default:
        return false;
    }
  }

  void remember(std::uint64_t index) {
    if (memo_.size() >= kMaxValues) fail("remembers too many values");
    memo_[index] = top();
  }

  bool memo(unsigned char opcode) {
    switch (opcode) {
      case kBinPut:
      case kLongBinPut:
        remember(unsigned_integer(opcode == kBinPut ? 1 : 4));
        return true;
      case kMemoize:
        remember(memo_.size());
        return true;
      case kBinGet:
      case kLongBinGet: {
        const auto found = memo_.find(unsigned_integer(opcode == kBinGet ? 1 : 4));
        if (found == memo_.end()) fail("recalls what it has not remembered");
        push(found->second);
        return true;
      }
      default:
        return false;
    }
  }

  void push_global(std::string_view module, std::string_view name) {
    if (module.size() > kMaxNameBytes || name.size() > kMaxNameBytes) fail("has a name that is too long");
    PickleValue* created = create(PickleKind::kGlobal);
    created->text.append(module).append(".").append(name);
    if (!is_understood(created->text) && foreign_names_.size() < kMaxForeignNames) {
      foreign_names_.insert(printed(created->text));
    }
    push(created);
  }

  void push_storage() {
    PickleValue* created = create(PickleKind::kStorage);
    created->tensor = storage_from(*pop(), where_);
    if (created->tensor.storage_key.size() > kMaxNameBytes) fail("has a name that is too long");
    const auto [known, is_new] = storage_elements_.emplace(created->tensor.storage_key, created->tensor);
    if (is_new) {
      result_.storages_.push_back(created->tensor);
    } else if (known->second.dtype != created->tensor.dtype ||
               known->second.storage_elements != created->tensor.storage_elements) {
      fail("gives one storage two sizes");
    }
    push(created);
  }

  void push_call() {
    const PickleValue* arguments = pop();
    const PickleValue* function = pop();
    PickleValue* created = create(PickleKind::kOpaque);
    *created = call_result(*function, *arguments, where_);
    count_items(created->items.size());
    push(created);
  }

  bool object(unsigned char opcode) {
    switch (opcode) {
      case kGlobal: {
        const std::string_view module = line();
        push_global(module, line());
        return true;
      }
      case kInst: {
        // Calls by name in one opcode, which torch.save never writes and attacks may: refused, but known by that name.
        const std::string_view module = line();
        push_global(module, line());
        return false;
      }
      case kStackGlobal: {
        const PickleValue* name = pop();
        const PickleValue* module = pop();
        if (name->kind != PickleKind::kText || module->kind != PickleKind::kText) fail("has a global without a name");
        push_global(module->text, name->text);
        return true;
      }
      case kBinPersId:
        push_storage();
        return true;
      case kReduce:
        push_call();
        return true;
      case kNewObj:
      case kNewObjEx:
        for (int i = opcode == kNewObj ? 2 : 3; i > 0; --i) pop();
        push(create(PickleKind::kOpaque));
        return true;
      case kBuild:
        // Sets attributes, of which none is looked at.
        pop();
        if (is_container(top()->kind) || top()->kind == PickleKind::kOpaque || top()->kind == PickleKind::kTensor) {
          return true;
        }
        fail("gives attributes to something that has none");
      default:
        return false;
    }
  }

  std::string_view bytes_;
  const std::string& where_;
  ForeignNames& foreign_names_;
  Pickle& result_;
  std::size_t position_ = 0;
  std::size_t num_items_ = 0;
  std::vector<PickleValue*> stack_;
  std::vector<std::size_t> marks_;  // stack sizes
  std::unordered_map<std::uint64_t, PickleValue*> memo_;
  std::unordered_map<std::string, PickledTensor> storage_elements_;
};

Pickle::Pickle(std::string_view bytes, const std::string& where, ForeignNames& foreign_names) {
  PickleReader(bytes, where, foreign_names, *this).run();
}

}  // namespace dpldm::io
