#include "train/rank_agreement.h"

#include <random>
#include <span>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/version.h>

#include "base/atomic_file.h"
#include "base/digest.h"
#include "base/error.h"
#include "base/log.h"
#include "comm/device_communicator.h"
#include "comm/mpi_world.h"
#include "data/hdf5_file.h"

namespace dpldm::train {

void require_same_run_on_all_ranks(comm::Communicator& comm, const RunFacts& facts) {
  comm::require_equal_on_all_ranks(comm, "LibTorch", TORCH_VERSION);
  comm::require_equal_on_all_ranks(comm, "the MPI library", comm::mpi_library_version());
  comm::require_equal_on_all_ranks(comm, "the HDF5 library", data::hdf5::library_version());
  comm::require_equal_on_all_ranks(comm, "the configuration", facts.config);
  comm::require_equal_on_all_ranks(comm, "the SHA-256 of the data", facts.data_sha256);
  comm::require_equal_on_all_ranks(comm, "the SHA-256 of the model", facts.model_sha256);
}

void require_same_parameters(comm::Communicator& comm, const at::Tensor& parameters, const std::string& when) {
  if (comm.size() == 1) return;
  Sha256 digest;
  const at::Tensor values = parameters.cpu();
  digest.add(values.const_data_ptr(), values.nbytes());
  const std::vector<int> different = comm::ranks_that_differ(comm, digest.finish());
  if (different.empty()) return;
  throw CommunicationError(
      fmt::format("the parameters {} are not the same on all ranks: rank {} differs from rank 0; memory or transport "
                  "is faulty, or the nodes compute differently",
                  when, fmt::join(different, ", ")));
}

std::string first_said(comm::Communicator& comm, const std::string& text) {
  std::int32_t first = text.empty() ? comm.size() : comm.rank();
  comm.all_reduce_min(comm::host_buffer(std::span(&first, 1)));
  return first == comm.size() ? "" : comm::broadcast_text(comm, text, first);
}

void throw_on_all_ranks(comm::Communicator& comm, const std::string& failure) {
  if (const std::string first = first_said(comm, failure); !first.empty()) throw IoError(first);
}

void require_same_folder(comm::Communicator& comm, const std::filesystem::path& folder) {
  if (comm.size() == 1) return;
  // A file that cannot be there of itself, nor from an earlier time.
  std::string name;
  comm::run_on_root(comm, [&] {
    std::random_device random;
    name = fmt::format(".seen-{:08x}{:08x}", random(), random());
    write_file_atomically(folder / name, "");
  });
  name = comm::broadcast_text(comm, name);
  std::string failure;
  try {
    if (!path_exists(folder / name)) {
      failure = fmt::format("rank {} does not see what rank 0 writes to {}; all ranks must see the same folder",
                            comm.rank(), folder.string());
    }
  } catch (const IoError& error) {
    failure = error.what();
  }
  failure = first_said(comm, failure);
  comm::run_on_root(comm, [&] { remove_file(folder / name); });
  if (!failure.empty()) throw IoError(failure);
}

std::unique_ptr<comm::Communicator> connect_devices(const config::RuntimeConfig& runtime, comm::Communicator& host) {
  if (runtime.backend == "mpi") return nullptr;
  if (runtime.backend == "auto") {
    if (host.size() == 1) return nullptr;
    const bool alone = comm::why_no_device_communicator(host.local_size()).empty();
    if (comm::any_rank(host, !alone)) return nullptr;
    if (const std::string shared = comm::why_devices_are_shared(host); !shared.empty()) {
      if (host.is_root()) spdlog::info("ranks exchange host memory: {}", shared);
      return nullptr;
    }
  }
  return comm::make_device_communicator(host);
}

}  // namespace dpldm::train
