#include "fake_nccl.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#include <mpi.h>

// NOLINTBEGIN: names that are not ours
struct FakeStream {
  int polls_left = 0;
};
struct FakeEvent {};
struct FakeComm {
  MPI_Comm mpi = MPI_COMM_NULL;
  int polls_left = 0;
};

namespace dpldm::test {
namespace {

NcclPlan the_plan;
NcclRecord the_record;

}  // namespace

NcclPlan& nccl_plan() { return the_plan; }
NcclRecord& nccl_record() { return the_record; }
void reset_fake_nccl() {
  the_plan = {};
  the_record = {};
}

namespace {

MPI_Datatype mpi_type(ncclDataType_t type) {
  switch (type) {
    case ncclUint8:
      return MPI_UINT8_T;
    case ncclInt32:
      return MPI_INT32_T;
    case ncclInt64:
      return MPI_INT64_T;
    case ncclFloat32:
      return MPI_FLOAT;
    case ncclFloat64:
      return MPI_DOUBLE;
  }
  std::abort();
}

MPI_Op mpi_op(ncclRedOp_t op) { return op == ncclSum ? MPI_SUM : op == ncclMax ? MPI_MAX : MPI_MIN; }

// Starts a collective: `move` does it at once, unless this rank is to hang.
template <typename Move>
ncclResult_t start(ncclComm_t comm, cudaStream_t stream, const Move& move) {
  ++the_record.collectives;
  while (the_plan.starting_hangs) std::this_thread::sleep_for(std::chrono::hours(1));
  stream->polls_left = the_plan.polls_until_done;
  comm->polls_left = the_plan.polls_until_done;
  if (!the_plan.collective_hangs) move(comm->mpi);
  return ncclInProgress;
}

}  // namespace
}  // namespace dpldm::test

using dpldm::test::the_plan;
using dpldm::test::the_record;

const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorUnknown ? "a fake device error" : "another device error";
}
cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaGetDeviceCount(int* count) {
  *count = the_plan.num_devices;
  // As a host without a driver answers.
  return the_plan.num_devices > 0 ? cudaSuccess : cudaErrorInsufficientDriver;
}
cudaError_t cudaSetDevice(int device) {
  the_record.device = device;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetPCIBusId(char* text, int length, int device) {
  std::snprintf(text, static_cast<std::size_t>(length), "0000:%02x:00.0", dpldm::test::nccl_plan().first_bus + device);
  return cudaSuccess;
}
cudaError_t cudaDeviceGetStreamPriorityRange(int* lowest, int* highest) {
  *lowest = 0;
  *highest = -1;
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned, int) {
  *stream = new FakeStream;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  if (the_plan.device_fails) return cudaErrorUnknown;
  if (the_plan.collective_hangs) return cudaErrorNotReady;
  return stream->polls_left-- > 0 ? cudaErrorNotReady : cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new FakeEvent;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaMalloc(void** memory, std::size_t num_bytes) {
  *memory = std::malloc(num_bytes);
  return cudaSuccess;
}
cudaError_t cudaFree(void* memory) {
  std::free(memory);
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void* to, const void* from, std::size_t num_bytes, cudaMemcpyKind) {
  std::memcpy(to, from, num_bytes);
  return cudaSuccess;
}

ncclResult_t ncclGetVersion(int* version) {
  *version = the_plan.version;
  return ncclSuccess;
}
ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  std::memset(id->internal, 0, sizeof(id->internal));
  std::strncpy(id->internal, "made on rank 0", sizeof(id->internal) - 1);
  return ncclSuccess;
}
const char* ncclGetErrorString(ncclResult_t result) {
  return result == ncclRemoteError ? "a fake remote error" : "a fake error";
}
ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int num_ranks, ncclUniqueId id, int rank, ncclConfig_t* config) {
  the_record.unique_id = id.internal;
  the_record.asked_for_blocking = config->blocking != 0;
  *comm = new FakeComm;
  (*comm)->polls_left = the_plan.polls_until_done;
  int world_size = 0;
  int world_rank = 0;
  MPI_Comm_size(MPI_COMM_WORLD, &world_size);
  MPI_Comm_rank(MPI_COMM_WORLD, &world_rank);
  if (world_size != num_ranks || world_rank != rank) return ncclInvalidUsage;
  // A rank that hangs does not come, so the others cannot be connected either; the tests have them all hang.
  if (!the_plan.creation_hangs && !the_plan.creation_fails) MPI_Comm_dup(MPI_COMM_WORLD, &(*comm)->mpi);
  return ncclInProgress;
}
ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* result) {
  if (the_plan.creation_fails || the_plan.collective_fails) {
    *result = ncclRemoteError;
  } else if (the_plan.creation_hangs) {
    *result = ncclInProgress;
  } else {
    *result = comm->polls_left-- > 0 ? ncclInProgress : ncclSuccess;
  }
  return ncclSuccess;
}
ncclResult_t ncclCommFinalize(ncclComm_t) {
  the_record.finalized = true;
  return ncclInProgress;
}
ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  the_record.destroyed = true;
  if (comm->mpi != MPI_COMM_NULL) MPI_Comm_free(&comm->mpi);
  delete comm;
  return ncclSuccess;
}
ncclResult_t ncclCommAbort(ncclComm_t comm) {
  the_record.aborted = true;
  delete comm;
  return ncclSuccess;
}
ncclResult_t ncclAllReduce(const void*, void* to, std::size_t count, ncclDataType_t type, ncclRedOp_t op,
                           ncclComm_t comm, cudaStream_t stream) {
  return dpldm::test::start(comm, stream, [&](MPI_Comm mpi) {
    MPI_Allreduce(MPI_IN_PLACE, to, static_cast<int>(count), dpldm::test::mpi_type(type), dpldm::test::mpi_op(op), mpi);
  });
}
ncclResult_t ncclReduce(const void* from, void* to, std::size_t count, ncclDataType_t type, ncclRedOp_t op, int root,
                        ncclComm_t comm, cudaStream_t stream) {
  return dpldm::test::start(comm, stream, [&](MPI_Comm mpi) {
    int rank = 0;
    MPI_Comm_rank(mpi, &rank);
    MPI_Reduce(rank == root ? MPI_IN_PLACE : from, to, static_cast<int>(count), dpldm::test::mpi_type(type),
               dpldm::test::mpi_op(op), root, mpi);
  });
}
ncclResult_t ncclBroadcast(const void*, void* to, std::size_t count, ncclDataType_t type, int root, ncclComm_t comm,
                           cudaStream_t stream) {
  return dpldm::test::start(comm, stream, [&](MPI_Comm mpi) {
    MPI_Bcast(to, static_cast<int>(count), dpldm::test::mpi_type(type), root, mpi);
  });
}
ncclResult_t ncclAllGather(const void* from, void* to, std::size_t count, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream) {
  return dpldm::test::start(comm, stream, [&](MPI_Comm mpi) {
    MPI_Allgather(from, static_cast<int>(count), dpldm::test::mpi_type(type), to, static_cast<int>(count),
                  dpldm::test::mpi_type(type), mpi);
  });
}
// NOLINTEND
