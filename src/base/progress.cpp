#include "base/progress.h"

#include <cmath>

#include <fmt/format.h>
#include <unistd.h>

#include "base/standard_streams.h"

namespace dpldm {

using std::chrono::steady_clock;

std::string duration_text(double seconds) {
  const auto whole = static_cast<std::int64_t>(std::llround(seconds));
  if (whole < 60) return fmt::format("{}s", whole);
  if (whole < 3600) return fmt::format("{}m{:02}s", whole / 60, whole % 60);
  return fmt::format("{}h{:02}m", whole / 3600, whole / 60 % 60);
}

Progress::Progress(std::string what, std::int64_t total, std::string unit, bool enabled, std::int64_t start_at)
    : what_(std::move(what)),
      total_(total),
      unit_(std::move(unit)),
      enabled_(enabled),
      terminal_(::isatty(STDERR_FILENO) == 1),
      start_at_(start_at),
      started_(steady_clock::now()),
      printed_(started_) {}

Progress::~Progress() {
  if (line_open_) tell("\n");
}

void Progress::update(std::int64_t done, const std::string& detail) {
  if (!enabled_) return;
  const auto now = steady_clock::now();
  const auto interval = terminal_ ? std::chrono::milliseconds(200) : std::chrono::milliseconds(kPlainInterval);
  if (done < total_ && now - printed_ < interval) return;
  printed_ = now;
  if (terminal_) {
    tell("\r\033[K" + line(done, detail));
    line_open_ = done < total_;
    if (!line_open_) tell("\n");
  } else {
    tell(line(done, detail) + "\n");
  }
}

std::string Progress::line(std::int64_t done, const std::string& detail) const {
  const double elapsed = std::chrono::duration<double>(steady_clock::now() - started_).count();
  const auto here = static_cast<double>(done - start_at_);
  const double rate = elapsed > 0 ? here / elapsed : 0;
  std::string text =
      fmt::format("{} {}/{} {}s ({}%)", what_, done, total_, unit_, total_ > 0 ? 100 * done / total_ : 100);
  if (rate > 0) {
    text += rate >= 10 ? fmt::format(", {:.0f} {}s/s", rate, unit_) : fmt::format(", {:.2f} {}s/s", rate, unit_);
    text += done < total_ ? ", " + duration_text(static_cast<double>(total_ - done) / rate) + " left"
                          : ", " + duration_text(elapsed);
  }
  if (!detail.empty()) text += ", " + detail;
  return text;
}

}  // namespace dpldm
