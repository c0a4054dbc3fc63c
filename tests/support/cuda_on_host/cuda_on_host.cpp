#include <algorithm>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <vector>

#include <cuda_runtime.h>
#include <ucontext.h>

dim3 threadIdx;
dim3 blockIdx;
dim3 blockDim;
dim3 gridDim;

namespace dpldm::test {
namespace {

ThreadOrder thread_order = ThreadOrder::kForward;

// One thread of a block. Its stack is used again by the next block.
struct Coroutine {
  static constexpr std::size_t kStackBytes = std::size_t{64} << 10;
  std::unique_ptr<char[]> stack = std::make_unique<char[]>(kStackBytes);
  ucontext_t context{};
  bool done = false;
};

ucontext_t scheduler;
std::vector<Coroutine> coroutines;
Coroutine* current = nullptr;
const std::function<void()>* body = nullptr;

void run_body() {
  (*body)();
  current->done = true;
}

void start(Coroutine& coroutine) {
  getcontext(&coroutine.context);
  coroutine.context.uc_stack.ss_sp = coroutine.stack.get();
  coroutine.context.uc_stack.ss_size = Coroutine::kStackBytes;
  coroutine.context.uc_link = &scheduler;
  coroutine.done = false;
  makecontext(&coroutine.context, run_body, 0);
}

// Every thread up to its next barrier, or its end. Returns how many ended.
unsigned run_to_barrier(const std::vector<unsigned>& order) {
  unsigned ended = 0;
  for (const unsigned thread : order) {
    current = &coroutines[thread];
    threadIdx = dim3(thread, 0, 0);
    swapcontext(&scheduler, &current->context);
    ended += current->done ? 1 : 0;
  }
  return ended;
}

void run_block(unsigned threads) {
  static std::mt19937 random(1);
  std::vector<unsigned> order(threads);
  std::iota(order.begin(), order.end(), 0U);
  if (thread_order == ThreadOrder::kBackward) std::reverse(order.begin(), order.end());
  for (unsigned thread = 0; thread < threads; ++thread) start(coroutines[thread]);
  unsigned ended = 0;
  while (ended == 0) {
    if (thread_order == ThreadOrder::kShuffled) std::shuffle(order.begin(), order.end(), random);
    ended = run_to_barrier(order);
  }
  if (ended < threads) throw std::logic_error("some threads of a block ended while others wait at a barrier");
}

}  // namespace

void set_thread_order(ThreadOrder order) { thread_order = order; }

void run_blocks(dim3 grid, unsigned threads, const std::function<void()>& kernel) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > 65535 || grid.z > 65535 || threads == 0 || threads > 1024) {
    throw std::logic_error("a grid or block that no device takes");
  }
  if (coroutines.size() < threads) coroutines.resize(threads);
  body = &kernel;
  gridDim = grid;
  blockDim = dim3(threads);
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = dim3(x, y, z);
        run_block(threads);
      }
    }
  }
}

}  // namespace dpldm::test

void __syncthreads() {
  using dpldm::test::current;
  using dpldm::test::scheduler;
  swapcontext(&current->context, &scheduler);
}
