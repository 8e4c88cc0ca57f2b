// Exceptions in a library that was opened behind another name.
//
// dlopen of a filter loads this library as well, but from glibc 2.35 on it does not tell the unwinder of it: filtees
// are put in front of the libraries that it counts as new. An exception that is thrown and caught in here would end the
// process. The library then registers its own table.
#include <dlfcn.h>
#include <link.h>

#include <cstdint>
#include <cstring>

extern "C" void __register_frame(void* table);

namespace {

// What a table is told by when the linker writes a search table: relative to the field, 4 bytes.
constexpr unsigned char relative_sdata4 = 0x1B;

void here() {}

bool unwinder_knows() {
    // Older C libraries do not have it, and list every library when the unwinder asks.
    using Find = int (*)(void*, void*);
    const auto find = reinterpret_cast<Find>(dlsym(RTLD_DEFAULT, "_dl_find_object"));
    if (find == nullptr) return true;
    alignas(16) unsigned char result[256];
    return find(reinterpret_cast<void*>(&here), result) == 0;
}

// The exception tables of the library that holds `here`.
int register_table(dl_phdr_info* library, size_t, void*) {
    const auto address = reinterpret_cast<uintptr_t>(&here);
    const unsigned char* header = nullptr;
    bool own = false;
    for (int i = 0; i < library->dlpi_phnum; ++i) {
        const ElfW(Phdr)& segment = library->dlpi_phdr[i];
        const uintptr_t begin = library->dlpi_addr + segment.p_vaddr;
        if (segment.p_type == PT_LOAD && address - begin < segment.p_memsz) own = true;
        if (segment.p_type == PT_GNU_EH_FRAME) header = reinterpret_cast<const unsigned char*>(begin);
    }
    if (!own) return 0;
    if (header != nullptr && header[1] == relative_sdata4) {
        int32_t distance;
        std::memcpy(&distance, header + 4, sizeof distance);
        __register_frame(const_cast<unsigned char*>(header) + 4 + distance);
    }
    return 1;
}

struct AtLoad {
    AtLoad() {
        if (!unwinder_knows()) dl_iterate_phdr(register_table, nullptr);
    }
} at_load;

}  // namespace
