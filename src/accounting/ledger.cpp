#include "accounting/ledger.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include "accounting/events.h"
#include "accounting/ledger_line.h"
#include "base/digest.h"
#include "base/error.h"
#include "base/file_lock.h"
#include "base/watchdog.h"
#include "base/words.h"

namespace dpldm::accounting {
namespace {

constexpr std::size_t kMaxLineBytes = std::size_t{1} << 16;
constexpr std::size_t kHeadBytes = 20 + 1 + 64 + 1;  // number, space, SHA-256, newline: always the same length

std::filesystem::path head_path(const std::filesystem::path& ledger) { return ledger.string() + ".head"; }

std::string head_text(std::size_t num_lines, const std::string& sha256) {
  return fmt::format("{:020d} {}\n", num_lines, sha256);
}

std::string reason() { return std::strerror(errno); }  // NOLINT(concurrency-mt-unsafe)

// 0 for a file that is not there.
std::uintmax_t num_bytes_of(const std::filesystem::path& path) {
  const WatchedFileCall watched("looking at", path);
  std::error_code error;
  const auto num_bytes = std::filesystem::file_size(path, error);
  if (error == std::errc::no_such_file_or_directory) return 0;
  if (error) throw IoError("cannot look at " + path.string() + ": " + error.message());
  return num_bytes;
}

// The whole lines of a file, one at a time. A last line without its newline is not one.
class LineReader {
 public:
  explicit LineReader(const std::filesystem::path& path) : path_(path) {
    require_regular_file(path);
    const WatchedFileCall watched("opening", path);
    stream_.open(path, std::ios::binary);
    if (!stream_) throw IoError("cannot open " + path.string());
  }

  bool next(std::string& line) {
    const WatchedFileCall watched("reading", path_);
    line.clear();
    for (char c = 0; stream_.get(c);) {
      if (c == '\n') {
        num_whole_bytes_ += line.size() + 1;
        return true;
      }
      line += c;
      if (line.size() > kMaxLineBytes) {
        throw IoError(
            fmt::format("{}: a line has more than {} bytes; this is not a ledger", path_.string(), kMaxLineBytes));
      }
    }
    if (!stream_.eof()) throw IoError("cannot read " + path_.string() + " to its end");
    return false;
  }
  std::uint64_t num_whole_bytes() const { return num_whole_bytes_; }

 private:
  std::filesystem::path path_;
  std::ifstream stream_;
  std::uint64_t num_whole_bytes_ = 0;
};

// Cuts a half-written line off.
void cut_to(const std::filesystem::path& path, std::uint64_t num_whole_bytes) {
  const WatchedFileCall watched("cutting", path);
  std::error_code error;
  const auto num_bytes = std::filesystem::file_size(path, error);
  if (!error && num_bytes <= num_whole_bytes) return;
  if (!error) std::filesystem::resize_file(path, num_whole_bytes, error);
  if (error) throw IoError("cannot cut the half-written line off " + path.string() + ": " + error.message());
  sync_to_disk(path);
}

// 1 to 10, then in steps of a tenth: how many of planned steps one evaluation of epsilon speaks for.
std::int64_t rounded_up_count(std::int64_t count) {
  std::int64_t point = 1;
  while (point < count) point += std::max<std::int64_t>(1, point / 10);
  return point;
}

}  // namespace

// The two files of a ledger that is being written. Holds a lock on the head file, so that a run that was started twice
// cannot append twice.
class PrivacyLedger::Appender {
 public:
  explicit Appender(const std::filesystem::path& path) : path_(path), lock_(head_path(path)) {
    const WatchedFileCall watched("opening", head_path(path));
    descriptor_ = ::open(head_path(path).c_str(), O_RDWR | O_CLOEXEC);
    if (descriptor_ < 0) throw IoError("cannot open " + head_path(path).string() + ": " + reason());
  }
  ~Appender() {
    const WatchedFileCall watched("closing", head_path(path_));
    ::close(descriptor_);
  }
  Appender(const Appender&) = delete;
  Appender& operator=(const Appender&) = delete;

  void start() {
    log_.emplace(path_);
    const WatchedFileCall watched("looking at", path_);
    num_bytes_ = std::filesystem::file_size(path_);
  }

  // The head is written after the line is on the disk and is not synced each time: a power cut may leave an older head,
  // which the ledger continues, but never a newer one.
  void append(const std::string& line, std::size_t num_lines, const std::string& sha256) {
    if (!log_) throw IoError(path_.string() + ": an earlier charge failed; nothing more can be charged");
    try {
      require_alone();
      log_->append(line);
      num_bytes_ += line.size() + 1;
      write_head(num_lines, sha256);
    } catch (...) {
      log_.reset();
      throw;
    }
  }

  void write_head(std::size_t num_lines, const std::string& sha256) {
    const WatchedFileCall watched("writing", head_path(path_));
    const std::string text = head_text(num_lines, sha256);
    if (::pwrite(descriptor_, text.data(), text.size(), 0) != static_cast<ssize_t>(text.size())) {
      throw IoError("cannot write " + head_path(path_).string() + ": " + reason());
    }
  }

 private:
  // Where locks are not had, another writer shows by what it wrote, or by the files that it put in the place of these.
  void require_alone() const {
    const WatchedFileCall watched("looking at", path_);
    std::error_code error;
    const auto found = std::filesystem::file_size(path_, error);
    const bool are_ours = log_->is_at_its_path() && names_open_file(head_path(path_), descriptor_);
    if (error || found != num_bytes_ || !are_ours) {
      throw IoError(path_.string() + " was changed by another process while this run was using it");
    }
  }

  std::filesystem::path path_;
  FileLock lock_;
  int descriptor_ = -1;
  std::optional<DurableLog> log_;
  std::uintmax_t num_bytes_ = 0;
};

PrivacyLedger::PrivacyLedger(PrivacyLedger&&) noexcept = default;
PrivacyLedger& PrivacyLedger::operator=(PrivacyLedger&&) noexcept = default;
PrivacyLedger::~PrivacyLedger() = default;

PrivacyLedger PrivacyLedger::create(const std::filesystem::path& path, const LedgerHeader& header) {
  if (path_exists(path)) throw IoError(path.string() + " exists already; a new run needs a new ledger");
  PrivacyLedger ledger;
  ledger.header_ = header;
  const std::string line = header_line(header);
  ledger.head_ = sha256_of(line);
  ledger.heads_.insert(ledger.head_);
  ledger.appender_ = std::make_unique<Appender>(path);
  ledger.appender_->start();
  ledger.appender_->append(line, 1, ledger.head_);
  // From now on there is a head; a power cut may only bring an older one back.
  sync_to_disk(head_path(path));
  const std::filesystem::path parent = path.parent_path();
  sync_to_disk(parent.empty() ? "." : parent);
  return ledger;
}

PrivacyLedger PrivacyLedger::open(const std::filesystem::path& path) {
  if (!path_exists(path)) throw IoError("there is no ledger " + path.string());
  auto appender = std::make_unique<Appender>(path);
  std::uint64_t num_whole_bytes = 0;
  PrivacyLedger ledger = parse(path, &num_whole_bytes);
  cut_to(path, num_whole_bytes);
  appender->start();
  appender->write_head(ledger.heads_.size(), ledger.head_);
  ledger.appender_ = std::move(appender);
  return ledger;
}

PrivacyLedger PrivacyLedger::read(const std::filesystem::path& path) { return parse(path, nullptr); }

bool PrivacyLedger::was_never_made(const std::filesystem::path& path) {
  if (num_bytes_of(head_path(path)) > 0) return false;
  const std::uintmax_t num_bytes = num_bytes_of(path);
  if (num_bytes == 0 || num_bytes > kMaxLineBytes) return num_bytes == 0;
  const std::string text = read_file(path, kMaxLineBytes);
  return text.find('\n') >= text.size() - 1;  // none, or at the very end
}

PrivacyLedger PrivacyLedger::parse(const std::filesystem::path& path, std::uint64_t* num_whole_bytes) {
  PrivacyLedger ledger;
  require_regular_file(path);
  // Before the ledger is opened, which decides what NFS shows of it: where a run is charging it, the head may be older
  // than the last line, but never newer.
  const std::string head = read_file(head_path(path), kHeadBytes);
  LineReader lines(path);
  std::string line;
  if (!lines.next(line)) throw IoError(path.string() + " has no header");
  std::size_t number = 1;
  try {
    ledger.header_ = parse_header_line(line);
    ledger.head_ = sha256_of(line);
    ledger.heads_.insert(ledger.head_);
    while (lines.next(line)) {
      ++number;
      ledger.add(parse_entry_line(line, ledger.head_), line);
    }
  } catch (const Error& error) {
    throw IoError(fmt::format("{}, line {}: {}", path.string(), number, error.what()));
  }

  // So it may be after a crash between the two writes.
  const std::string known = head.size() == kHeadBytes ? head.substr(21, 64) : "";
  if (!ledger.contains_head(known)) {
    throw IoError(fmt::format("{} has {}, but {} knows of others: the end was cut off or replaced", path.string(),
                              counted(number, "line"), head_path(path).filename().string()));
  }
  if (num_whole_bytes != nullptr) *num_whole_bytes = lines.num_whole_bytes();
  return ledger;
}

void PrivacyLedger::add(const LedgerEntry& entry, const std::string& line) {
  if (entry.kind == "step") {
    const auto last = std::find_if(entries_.rbegin(), entries_.rend(), [](const auto& e) { return e.kind == "step"; });
    if (last != entries_.rend() && std::pair(entry.attempt, entry.step) <= std::pair(last->attempt, last->step)) {
      throw InternalError(
          fmt::format("step {} of attempt {} does not come after step {} of attempt {}, the last one charged",
                      entry.step, entry.attempt, last->step, last->attempt));
    }
  }
  std::vector<GaussianEvent> all = events_;
  all.push_back(entry.event);
  all = merged(all);
  check_events(all);
  events_ = std::move(all);
  entries_.push_back(entry);
  head_ = sha256_of(line);
  heads_.insert(head_);
}

bool PrivacyLedger::contains_head(const std::string& head) const { return heads_.contains(head); }

bool PrivacyLedger::is_planned_step(const LedgerEntry& entry) const {
  return entry.kind == "step" && entry.event.sampling_rate == header_.sampling_rate &&
         entry.event.noise_multiplier == header_.noise_multiplier && to_text(entry.event.sampler) == header_.sampler;
}

std::int64_t PrivacyLedger::num_steps() const {
  std::int64_t count = 0;
  for (const LedgerEntry& entry : entries_) count += is_planned_step(entry) ? entry.event.count : 0;
  return count;
}

std::vector<PrivacyLedger::OtherRelease> PrivacyLedger::other_releases() const {
  std::map<std::string, std::vector<GaussianEvent>> by_kind;
  for (const LedgerEntry& entry : entries_) {
    if (!is_planned_step(entry)) by_kind[entry.kind].push_back(entry.event);
  }
  std::vector<OtherRelease> others;
  for (const auto& [kind, events] : by_kind) {
    for (const GaussianEvent& event : merged(events)) others.push_back({kind, event});
  }
  return others;
}

std::int64_t PrivacyLedger::next_attempt() const {
  std::int64_t next = 0;
  for (const LedgerEntry& entry : entries_) next = std::max(next, entry.attempt + 1);
  return next;
}

void PrivacyLedger::charge(const LedgerEntry& entry) {
  if (!appender_) throw InternalError("a ledger that was opened for reading cannot be charged");
  check_events({&entry.event, 1});
  const std::string line = entry_line(entry, head_);
  add(entry, line);
  appender_->append(line, heads_.size(), head_);
}

std::vector<GaussianEvent> PrivacyLedger::events() const { return events_; }

double PrivacyLedger::epsilon() const { return epsilon_of_events(events_); }

double PrivacyLedger::epsilon_bound() const { return bound_of_events(events_); }

double PrivacyLedger::epsilon_after(const GaussianEvent& next) const {
  std::vector<GaussianEvent> all = events_;
  all.push_back(next);
  return bound_of_events(merged(all));
}

double PrivacyLedger::bound_of_events(const std::vector<GaussianEvent>& events) const {
  const auto planned = std::find_if(events.begin(), events.end(), [this](const GaussianEvent& event) {
    return event.sampling_rate == header_.sampling_rate && event.noise_multiplier == header_.noise_multiplier &&
           to_text(event.sampler) == header_.sampler;
  });
  if (planned != events.end() && planned->count < header_.planned_steps) {
    std::vector<GaussianEvent> more = events;
    std::int64_t& count = more[static_cast<std::size_t>(planned - events.begin())].count;
    count = std::min(rounded_up_count(count), header_.planned_steps);
    const double bound = epsilon_of_events(more);
    if (bound <= header_.target_epsilon) return bound;
  }
  return epsilon_of_events(events);
}

double PrivacyLedger::epsilon_of_events(const std::vector<GaussianEvent>& events) const {
  if (!header_.is_private) return std::numeric_limits<double>::infinity();
  std::vector<EventKey> key;
  key.reserve(events.size());
  for (const GaussianEvent& event : events) {
    key.emplace_back(event.sampling_rate, event.noise_multiplier, event.sampler, event.count);
  }
  const auto known = known_epsilons_.find(key);
  if (known != known_epsilons_.end()) return known->second;
  const double epsilon = epsilon_of(events, header_.delta, header_.accountant, header_.neighbouring);
  known_epsilons_.emplace(std::move(key), epsilon);
  return epsilon;
}

}  // namespace dpldm::accounting
