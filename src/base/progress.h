// A progress line: rewritten in place on a terminal, one plain line every few seconds in a log.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace dpldm {

class Progress {
 public:
  // `what` names the work ("pretrain"), `total` counts `unit`s ("step", "image"). Only the rank with `enabled` prints.
  Progress(std::string what, std::int64_t total, std::string unit, bool enabled, std::int64_t start_at = 0);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // `done` units are complete; `detail` is appended (say, "loss 0.41"). Prints at most a few times a second on a
  // terminal, every `kPlainInterval` otherwise, and always at the end.
  void update(std::int64_t done, const std::string& detail = "");

 private:
  static constexpr std::chrono::seconds kPlainInterval{10};

  std::string line(std::int64_t done, const std::string& detail) const;

  std::string what_;
  std::int64_t total_;
  std::string unit_;
  bool enabled_;
  bool terminal_;
  bool line_open_ = false;
  std::int64_t start_at_;
  std::chrono::steady_clock::time_point started_;
  std::chrono::steady_clock::time_point printed_;
};

// 83 -> "1m23s", 5 -> "5s".
std::string duration_text(double seconds);

}  // namespace dpldm
