// The part of onnxruntime's C interface that a program needs to run a model by a plugin execution provider, of version
// 1.23. Programs that have onnxruntime's own headers use those.
#pragma once

#include "abi.hpp"

struct OrtAllocator;
struct OrtEnv;
struct OrtEpDevice;
struct OrtMemoryInfo;
struct OrtRunOptions;
struct OrtSession;
struct OrtTypeInfo;

namespace sparsec::onnxruntime {

constexpr std::uint32_t kSessionVersion = 23;
constexpr int kWarning = 2;         // the level of the log
constexpr int kDeviceAllocator = 0;  // the type of allocator
constexpr int kDefaultMemory = 0;    // the type of memory

template <typename T>
using Release = void(T *);

using CreateEnv = Function<3, OrtStatus *(int, const char *, OrtEnv **)>;
using CreateSession = Function<7, OrtStatus *(const OrtEnv *, const char *, const OrtSessionOptions *, OrtSession **)>;
using Run = Function<9, OrtStatus *(OrtSession *, const OrtRunOptions *, const char *const *, const OrtValue *const *,
                                    std::size_t, const char *const *, std::size_t, OrtValue **)>;
using CreateSessionOptions = Function<10, OrtStatus *(OrtSessionOptions **)>;
using SetIntraOpNumThreads = Function<24, OrtStatus *(OrtSessionOptions *, int)>;
using SessionGetInputCount = Function<30, OrtStatus *(const OrtSession *, std::size_t *)>;
using SessionGetOutputCount = Function<31, OrtStatus *(const OrtSession *, std::size_t *)>;
using SessionGetInputTypeInfo = Function<33, OrtStatus *(const OrtSession *, std::size_t, OrtTypeInfo **)>;
using SessionGetInputName = Function<36, OrtStatus *(const OrtSession *, std::size_t, OrtAllocator *, char **)>;
using SessionGetOutputName = Function<37, OrtStatus *(const OrtSession *, std::size_t, OrtAllocator *, char **)>;
using CreateTensorWithData = Function<49, OrtStatus *(const OrtMemoryInfo *, void *, std::size_t, const std::int64_t *,
                                                      std::size_t, int, OrtValue **)>;
using CastTypeInfoToTensorInfo = Function<55, OrtStatus *(const OrtTypeInfo *, const OrtTensorTypeAndShapeInfo **)>;
using GetTensorShapeElementCount = Function<64, OrtStatus *(const OrtTensorTypeAndShapeInfo *, std::size_t *)>;
using CreateCpuMemoryInfo = Function<69, OrtStatus *(int, int, OrtMemoryInfo **)>;
using AllocatorFree = Function<76, OrtStatus *(OrtAllocator *, void *)>;
using GetAllocatorWithDefaultOptions = Function<78, OrtStatus *(OrtAllocator **)>;
using ReleaseEnv = Function<92, Release<OrtEnv>>;
using ReleaseMemoryInfo = Function<94, Release<OrtMemoryInfo>>;
using ReleaseSession = Function<95, Release<OrtSession>>;
using ReleaseValue = Function<96, Release<OrtValue>>;
using ReleaseTypeInfo = Function<98, Release<OrtTypeInfo>>;
using ReleaseSessionOptions = Function<100, Release<OrtSessionOptions>>;
using RegisterProviderLibrary = Function<301, OrtStatus *(OrtEnv *, const char *, const char *)>;
using UnregisterProviderLibrary = Function<302, OrtStatus *(OrtEnv *, const char *)>;
using GetEpDevices = Function<303, OrtStatus *(const OrtEnv *, const OrtEpDevice *const **, std::size_t *)>;
using AppendProvider = Function<304, OrtStatus *(OrtSessionOptions *, OrtEnv *, const OrtEpDevice *const *, std::size_t,
                                                 const char *const *, const char *const *, std::size_t)>;
using DeviceProviderName = Function<312, const char *(const OrtEpDevice *)>;

}  // namespace sparsec::onnxruntime
