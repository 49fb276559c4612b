# How targets are declared. A folder's public headers are included as "folder/name.h"; what it does not
# link it cannot include, since headers are reached through a per-target include directory that holds
# symlinks to that target's public headers only.

set(HF_SANITIZE "" CACHE STRING "comma separated -fsanitize= list")

add_library(hf_flags INTERFACE)
target_compile_options(hf_flags INTERFACE
  $<$<COMPILE_LANGUAGE:C>:-Wall -Wextra -Wconversion -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Werror
  -fno-strict-aliasing -fno-omit-frame-pointer>)
target_compile_definitions(hf_flags INTERFACE _GNU_SOURCE)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  target_compile_options(hf_flags INTERFACE $<$<COMPILE_LANGUAGE:C>:-msse4.2>)
endif()
if(HF_SANITIZE)
  target_compile_options(hf_flags INTERFACE -fsanitize=${HF_SANITIZE} -fno-sanitize-recover=all)
  target_link_options(hf_flags INTERFACE -fsanitize=${HF_SANITIZE})
endif()

# hf_library(NAME [SIMULATED] SOURCES a.c … [HEADERS a.h …] [DEPS hf_base …] [PRIVATE_DEPS …])
# DEPS are part of the public headers' contract (or of tests'); PRIVATE_DEPS are used by the sources only.
# SIMULATED makes a second library NAME_sim of the same sources, for tests on the simulated machine: it links
# X_sim for each X that has one (hf_env_sim among them, which defines HF_SIMULATOR), so its crash points and
# mutations (env/env.h) are alive. A program links either NAME or NAME_sim.
function(hf_library name)
  cmake_parse_arguments(A "SIMULATED" "" "SOURCES;HEADERS;DEPS;PRIVATE_DEPS" ${ARGN})
  file(RELATIVE_PATH folder ${CMAKE_SOURCE_DIR} ${CMAKE_CURRENT_SOURCE_DIR})
  set(public ${CMAKE_BINARY_DIR}/public/${name})
  file(MAKE_DIRECTORY ${public})
  foreach(header ${A_HEADERS})
    get_filename_component(sub ${header} DIRECTORY)
    file(MAKE_DIRECTORY ${public}/${folder}/${sub})
    file(CREATE_LINK ${CMAKE_CURRENT_SOURCE_DIR}/${header} ${public}/${folder}/${header} SYMBOLIC)
  endforeach()
  add_library(${name} STATIC ${A_SOURCES})
  target_include_directories(${name} PUBLIC ${public})
  target_link_libraries(${name} PRIVATE hf_flags PUBLIC ${A_DEPS} PRIVATE ${A_PRIVATE_DEPS})
  if(A_SIMULATED)
    hf_simulated(deps ${A_DEPS})
    hf_simulated(private_deps ${A_PRIVATE_DEPS})
    add_library(${name}_sim STATIC ${A_SOURCES})
    target_include_directories(${name}_sim PUBLIC ${public})
    target_link_libraries(${name}_sim PRIVATE hf_flags PUBLIC ${deps} PRIVATE ${private_deps})
  endif()
endfunction()

# The same list with X_sim for every X that has one.
function(hf_simulated out)
  set(list)
  foreach(dep ${ARGN})
    if(TARGET ${dep}_sim)
      list(APPEND list ${dep}_sim)
    else()
      list(APPEND list ${dep})
    endif()
  endforeach()
  set(${out} ${list} PARENT_SCOPE)
endfunction()

# hf_test(NAME SOURCES a.c … DEPS …): a cmocka program, run by ctest without arguments.
function(hf_test name)
  cmake_parse_arguments(A "" "TIMEOUT" "SOURCES;DEPS;LABELS" ${ARGN})
  add_executable(${name} ${A_SOURCES})
  target_link_libraries(${name} PRIVATE hf_flags ${A_DEPS} cmocka)
  add_test(NAME ${name} COMMAND ${name})
  if(NOT A_TIMEOUT)
    set(A_TIMEOUT 900) # a busy machine may be ten times slower; a test that hangs is ended
  endif()
  set_tests_properties(${name} PROPERTIES TIMEOUT ${A_TIMEOUT} LABELS "${A_LABELS}")
endfunction()

# hf_mutations(NAME PAGE): the simulation NAME breaks the rules in PAGE's table, "| 7 | … |" (tests/support/mutations.h);
# MUTATIONS is their numbers with commas between.
function(hf_mutations name page)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/${page})
  file(STRINGS ${CMAKE_SOURCE_DIR}/${page} rows REGEX "^\\| [0-9]+ \\| ")
  list(TRANSFORM rows REPLACE "^\\| ([0-9]+) .*" "\\1")
  list(JOIN rows "," numbers)
  target_compile_definitions(${name} PRIVATE "MUTATIONS=${numbers}")
  target_link_libraries(${name} PRIVATE hf_mutations)
endfunction()
