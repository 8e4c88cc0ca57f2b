// One list of exported names: the headers, the types in functions.inc and the built library agree with it.
#include <doctest/doctest.h>

#include <array>
#include <cctype>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <set>
#include <sstream>
#include <string>

#include "functions.h"

extern const named_function acl_binding_functions[];

namespace {

using Names = std::set<std::string>;

std::string contents(const std::filesystem::path& path) {
    std::ifstream file(path);
    REQUIRE_MESSAGE(file.good(), path);
    return {std::istreambuf_iterator<char>(file), {}};
}

Names listed() {
    std::istringstream lines(contents(MOE_EXPORTS));
    return {std::istream_iterator<std::string>(lines), {}};
}

// Functions of a header are what stands before a parenthesis behind a visibility macro.
void add_declared(const std::filesystem::path& header, Names& names) {
    const std::string text = contents(header);
    for (const std::string macro : {"\nACL_FUNC_VISIBILITY ", "\nACLNN_API "}) {
        for (size_t at = text.find(macro); at != std::string::npos; at = text.find(macro, at + 1)) {
            const size_t end = text.find('(', at);
            size_t begin = end;
            while (std::isalnum(static_cast<unsigned char>(text[begin - 1])) != 0 || text[begin - 1] == '_') --begin;
            names.insert(text.substr(begin, end - begin));
        }
    }
}

// What the dynamic linker sees of a library.
Names exported(const std::string& library) {
    const std::unique_ptr<FILE, int (*)(FILE*)> nm(
        popen((MOE_NM " -D --defined-only --format=posix " + library).c_str(), "r"), pclose);
    REQUIRE(nm != nullptr);
    Names names;
    std::array<char, 1024> line;
    while (std::fgets(line.data(), line.size(), nm.get()) != nullptr) {
        const std::string text(line.data());
        names.insert(text.substr(0, text.find(' ')));
    }
    return names;
}

}  // namespace

TEST_CASE("headers declare exactly the list") {
    Names names;
    for (const char* directory : {"acl", "aclnn", "aclnnop"})
        for (const auto& entry :
             std::filesystem::recursive_directory_iterator(MOE_INCLUDE "/" + std::string(directory)))
            if (entry.is_regular_file()) add_declared(entry.path(), names);
    CHECK(names == listed());
}

TEST_CASE("types are stated for exactly the list") {
    Names names;
    for (const named_function* function = functions; function->name != nullptr; ++function) {
        names.insert(function->name);
        const bool linked = function->address != nullptr;
        CHECK_MESSAGE(linked, function->name);
    }
    CHECK(names == listed());
    CHECK(names.size() == 185);
}

TEST_CASE("acl_binding declares functions of the list, at the addresses that C finds") {
    std::map<std::string, any_function> addresses;
    for (const named_function* function = functions; function->name != nullptr; ++function)
        addresses[function->name] = function->address;
    size_t count = 0;
    for (const named_function* function = acl_binding_functions; function->name != nullptr; ++function, ++count) {
        const bool same = addresses[function->name] == function->address;
        CHECK_MESSAGE(same, function->name);
    }
    CHECK(count > 150);
}

TEST_CASE("libraries export exactly the list") {
    for (const char* library :
         {"ascend_cpu", "ascendcl", "acl_rt", "nnopbase", "opapi", "opapi_math", "opapi_nn", "opapi_transformer"}) {
        CAPTURE(library);
        CHECK(exported(MOE_ASCEND_LIB64 "/lib" + std::string(library) + ".so") == listed());
    }
}
