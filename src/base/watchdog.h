// Ends the process when a call does not come back.
//
// Communicators poll and give up by themselves. What is left are calls that cannot be polled: starting and ending MPI,
// a poll that itself blocks, and any use of a file, because a file system whose server is gone keeps its callers for
// ever. Only another thread can notice that, and all it can safely do is to say so and end the process; the launcher
// then ends the other ranks. One such thread serves the whole process.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <thread>

namespace dpldm {

// One call, from construction to destruction. When `limit` passes before, the process ends with code 71 and "`what` has
// not returned". Time in which the process as a whole was stopped does not count. Any thread may have any number.
class WatchedCall {
 public:
  // `what` is asked only when the time has passed, and by another thread.
  WatchedCall(std::function<std::string()> what, std::chrono::milliseconds limit);
  WatchedCall(const std::string& what, std::chrono::milliseconds limit) : WatchedCall([what] { return what; }, limit) {}
  ~WatchedCall();
  WatchedCall(const WatchedCall&) = delete;
  WatchedCall& operator=(const WatchedCall&) = delete;

 private:
  std::uint64_t ticket_;
};

// The way out of a failing process: while this object lives, the process ends with `exit_code` when `grace` has passed,
// whatever hangs by then. A last message may go to a file system that does not answer, and the launcher may be gone.
class LastResort {
 public:
  LastResort(std::chrono::milliseconds grace, int exit_code);

 private:
  std::jthread thread_;
};

// What a slow disk (20 MB/s) needs to read or to write that many bytes.
std::chrono::milliseconds slow_disk_time(std::uintmax_t num_bytes);

// How long one use of a file may take from now on: ten minutes, until it is set.
void set_file_deadline(std::chrono::milliseconds deadline);
// What the process is doing, for the message: "finetune step 12 on rank 1 of 4". Empty for nothing in particular.
void set_watched_context(const std::string& context);

// One use of a file: to read, write, sync, rename or look at it. It may take the deadline of files, and beyond that as
// long as a slow disk needs for `num_bytes`. `doing` is "reading"; a literal.
class WatchedFileCall {
 public:
  WatchedFileCall(const char* doing, const std::filesystem::path& path, std::uintmax_t num_bytes = 0);

 private:
  WatchedCall call_;
};

}  // namespace dpldm
