// Does it pay to reduce the sum in buckets while the last micro-batch is still being added to it? One JSON object per
// size on rank 0. Run by scaling.py under mpirun.
//
//   overlap [--repeats N]
//
// The last micro-batch's part is the weighted sum of kept gradients, rows of memory as long as the trained parameters.
// "apart": all of it, then one reduction. "overlapped": bucket by bucket, the reduction of one in flight while the next
// is added up, which goes on in slices so that MPI is polled in between. Raw MPI: a Communicator has nothing that is
// not finished when it returns.
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <string_view>
#include <vector>

#include <fmt/format.h>
#include <mpi.h>

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kRows = 8;                         // records of the micro-batch
constexpr std::size_t kBucket = std::size_t{6'553'600};  // floats: 25 MiB
constexpr std::size_t kSlice = std::size_t{1} << 16;

struct Work {
  explicit Work(std::size_t count) : sum(count), rows(kRows, std::vector<float>(count, 0.5F)) {}

  void add(std::size_t first, std::size_t count) {
    for (std::size_t row = 0; row < kRows; ++row) {
      const float weight = 0.25F + static_cast<float>(row);
      const float* from = rows[row].data() + first;
      float* to = sum.data() + first;
      for (std::size_t i = 0; i < count; ++i) to[i] += weight * from[i];
    }
  }

  std::vector<float> sum;
  std::vector<std::vector<float>> rows;
};

void apart(Work& work) {
  const std::size_t count = work.sum.size();
  for (std::size_t first = 0; first < count; first += kSlice) work.add(first, std::min(kSlice, count - first));
  MPI_Allreduce(MPI_IN_PLACE, work.sum.data(), static_cast<int>(count), MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
}

void overlapped(Work& work) {
  const std::size_t count = work.sum.size();
  const std::size_t bucket = std::min(kBucket, (count + 3) / 4);  // at least four, or nothing overlaps
  std::vector<MPI_Request> requests;
  for (std::size_t first = 0; first < count; first += bucket) {
    const std::size_t end = std::min(count, first + bucket);
    for (std::size_t at = first; at < end; at += kSlice) {
      work.add(at, std::min(kSlice, end - at));
      int done = 0;
      MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE);
    }
    MPI_Iallreduce(MPI_IN_PLACE, work.sum.data() + first, static_cast<int>(end - first), MPI_FLOAT, MPI_SUM,
                   MPI_COMM_WORLD, &requests.emplace_back());
  }
  MPI_Waitall(static_cast<int>(requests.size()), requests.data(), MPI_STATUSES_IGNORE);
}

// Seconds of one call: the median over repeats of the slowest rank's time.
template <typename Call>
double seconds_of(int repeats, const Call& call) {
  std::vector<double> times;
  for (int i = 0; i < repeats; ++i) {
    MPI_Barrier(MPI_COMM_WORLD);
    const auto begin = Clock::now();
    call();
    double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    MPI_Allreduce(MPI_IN_PLACE, &seconds, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    times.push_back(seconds);
  }
  std::nth_element(times.begin(), times.begin() + repeats / 2, times.end());
  return times[static_cast<std::size_t>(repeats / 2)];
}

}  // namespace

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  int repeats = 9;
  if (argc == 3 && argv[1] == std::string_view("--repeats")) repeats = std::atoi(argv[2]);
  int rank = 0;
  int size = 1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  for (const std::size_t count : {std::size_t{1'000'000}, std::size_t{9'790'000}}) {
    Work work(count);
    const double adding = seconds_of(repeats, [&] {
      for (std::size_t first = 0; first < count; first += kSlice) work.add(first, std::min(kSlice, count - first));
    });
    const double one_after_the_other = seconds_of(repeats, [&] { apart(work); });
    const double together = seconds_of(repeats, [&] { overlapped(work); });
    if (rank == 0) {
      fmt::print(R"({{"ranks": {}, "elements": {}, "adding_s": {:.6g}, "apart_s": {:.6g}, "overlapped_s": {:.6g}}})"
                 "\n",
                 size, count, adding, one_after_the_other, together);
    }
  }
  MPI_Finalize();
  return 0;
}
