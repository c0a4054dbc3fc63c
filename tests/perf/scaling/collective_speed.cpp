// How long collectives take, by size: one JSON object per line on rank 0. Run by scaling.py under mpirun.
//
//   collective_speed [--repeats N]
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "comm/mpi_world.h"

namespace {

using Clock = std::chrono::steady_clock;

// Seconds of one call: the median over repeats of the slowest rank's time.
template <typename Call>
double seconds_of(dpldm::comm::Communicator& comm, int repeats, const Call& call) {
  std::vector<double> times;
  for (int i = 0; i < repeats; ++i) {
    comm.barrier();
    const auto begin = Clock::now();
    call();
    double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    comm.all_reduce_max(dpldm::comm::host_buffer(std::span(&seconds, 1)));
    times.push_back(seconds);
  }
  std::nth_element(times.begin(), times.begin() + repeats / 2, times.end());
  return times[static_cast<std::size_t>(repeats / 2)];
}

}  // namespace

int main(int argc, char** argv) {
  int repeats = 15;
  if (argc == 3 && argv[1] == std::string_view("--repeats")) repeats = std::atoi(argv[2]);
  dpldm::comm::MpiWorld world(&argc, &argv);
  const auto comm = world.make_communicator();
  for (const std::size_t count :
       {std::size_t{1}, std::size_t{1} << 14, std::size_t{1} << 18, std::size_t{1} << 20, std::size_t{1} << 22}) {
    std::vector<float> values(count, 1);
    const auto buffer = dpldm::comm::host_buffer(std::span(values));
    const double reduce = seconds_of(*comm, repeats, [&] { comm->all_reduce_sum(buffer); });
    const double broadcast = seconds_of(*comm, repeats, [&] { comm->broadcast(buffer, 0); });
    if (comm->is_root()) {
      fmt::print("{{\"ranks\": {}, \"bytes\": {}, \"all_reduce_s\": {:.6g}, \"broadcast_s\": {:.6g}}}\n", comm->size(),
                 count * sizeof(float), reduce, broadcast);
    }
  }
  return 0;
}
