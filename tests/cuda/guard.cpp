// A CPU build of PyTorch has no device guard for CUDA, and cannot index a tensor that says it is
// there. This registers one that does nothing.
#include <c10/core/impl/DeviceGuardImplInterface.h>
C10_REGISTER_GUARD_IMPL(CUDA, c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA>)
