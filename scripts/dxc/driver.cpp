// Compiles HLSL files to DXIL with Microsoft's DXC (libdxcompiler.so), as wgpu does on Windows. scripts/check-dxc builds and runs it.
//   driver LIBRARY FILE...      exit 1 when any file fails
// A file's first line names its entry point: "// entry: NAME".
#include <dlfcn.h>

#include <atomic>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "dxcapi.h"

static std::mutex printing;

// The compiler's message; empty when all is well.
static std::string compile(IDxcCompiler3 *dxc, const std::string &path) {
  std::ifstream in(path, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  const std::string mark = "// entry: ";
  if (!in || text.compare(0, mark.size(), mark) != 0) return "no such file, or no '// entry: NAME' in its first line";
  const std::string name = text.substr(mark.size(), text.find_first_of("\r\n") - mark.size());
  const std::wstring entry(name.begin(), name.end());
  const wchar_t *arguments[] = {L"-E", entry.c_str(), L"-T", L"cs_6_0", L"-HV", L"2018"};
  const DxcBuffer source = {text.data(), text.size(), DXC_CP_UTF8};
  IDxcResult *result = nullptr;
  if (dxc->Compile(&source, arguments, 6, nullptr, __uuidof(IDxcResult), (void **)&result) != S_OK) return "Compile() failed";
  HRESULT status = E_FAIL;
  result->GetStatus(&status);
  std::string message;
  if (status != S_OK) {
    message = "failed without a message";
    IDxcBlobEncoding *errors = nullptr;
    if (result->GetErrorBuffer(&errors) == S_OK && errors != nullptr) {
      message.assign((const char *)errors->GetBufferPointer(), errors->GetBufferSize());
      errors->Release();
    }
  }
  result->Release();
  return message;
}

int main(int argc, char **argv) {
  if (argc < 3) return fprintf(stderr, "usage: driver LIBRARY FILE...\n"), 2;
  void *library = dlopen(argv[1], RTLD_NOW);
  if (library == nullptr) return fprintf(stderr, "dxc: %s\n", dlerror()), 2;
  const auto create = (DxcCreateInstanceProc)dlsym(library, "DxcCreateInstance");
  if (create == nullptr) return fprintf(stderr, "dxc: no DxcCreateInstance\n"), 2;
  std::atomic<int> next{2}, failed{0};
  const auto work = [&] {
    IDxcCompiler3 *dxc = nullptr;
    if (create(CLSID_DxcCompiler, __uuidof(IDxcCompiler3), (void **)&dxc) != S_OK) {
      failed = argc;
      return;
    }
    for (int i; (i = next++) < argc;) {
      const std::string message = compile(dxc, argv[i]);
      if (message.empty()) continue;
      failed++;
      const std::lock_guard<std::mutex> lock(printing);
      fprintf(stderr, "%s: %s\n", argv[i], message.c_str());
    }
    dxc->Release();
  };
  std::vector<std::thread> workers;
  for (unsigned i = 0; i < std::max(1u, std::thread::hardware_concurrency()); i++) workers.emplace_back(work);
  for (auto &worker : workers) worker.join();
  printf("dxc: %d files to DXIL, %d failures\n", argc - 2, failed.load());
  fflush(stdout);
  _Exit(failed == 0 ? 0 : 1);  // the library's own shutdown is not needed
}
