// A world of one rank: every collective is complete before it starts.
#include <cstring>

#include "base/error.h"
#include "comm/communicator.h"

namespace dpldm::comm {
namespace {

class SelfCommunicator : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  int local_rank() const override { return 0; }
  int local_size() const override { return 1; }

  void all_reduce_sum(Buffer) override {}
  void all_reduce_max(Buffer) override {}
  void all_reduce_min(Buffer) override {}
  void reduce_sum(Buffer, int root) override { require_rank(root); }
  void broadcast(Buffer, int root) override { require_rank(root); }
  void barrier() override {}

  void all_gather(Buffer mine, Buffer all) override {
    if (all.count != mine.count || all.dtype != mine.dtype) {
      throw InternalError("all_gather of one rank needs two buffers of the same length and type");
    }
    if (mine.place == Place::kDevice || all.place == Place::kDevice) {
      throw InternalError("all_gather of one rank copies host memory only");
    }
    if (mine.count > 0) std::memmove(all.data, mine.data, mine.count * size_of(mine.dtype));
  }

  // Nobody is waited for.
  void set_deadline(std::chrono::milliseconds deadline) override { deadline_ = deadline; }
  std::chrono::milliseconds deadline() const override { return deadline_; }
  void set_context(const std::string&) override {}

 private:
  std::chrono::milliseconds deadline_{0};

  static void require_rank(int root) {
    if (root != 0) throw InternalError("rank " + std::to_string(root) + " is not in a world of one rank");
  }
};

}  // namespace

std::unique_ptr<Communicator> make_self_communicator() { return std::make_unique<SelfCommunicator>(); }

}  // namespace dpldm::comm
