// Scalars in TensorBoard's format: a file of framed protocol buffers of the message tensorflow.Event.
//
// Four fields of one message are all that is needed, so they are written here: LibTorch has a Protocol Buffers library
// of its own inside, and a second version in the same process is asking for trouble.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>

namespace dpldm::io {

class EventFile {
 public:
  // Makes `directory`/events.out.tfevents.<start>. `start_seconds`, since 1970, is the time that every event gets: the
  // durations of private steps tell how many records they had, so no step may have a time of its own. Throws IoError.
  EventFile(const std::filesystem::path& directory, std::int64_t start_seconds);

  // One event with all of `scalars`, flushed. Throws IoError.
  void add(std::int64_t step, const std::map<std::string, double>& scalars);

 private:
  void write_record(const std::string& event);

  std::filesystem::path path_;
  std::int64_t start_seconds_;
  std::ofstream file_;
};

}  // namespace dpldm::io
