# Switches for building this repository, nothing else: this file is not part of the Hex package,
# and the library reads no application environment. Defaults live in the option schemas.
import Config

# Contributors work on the native code itself, so it is always built from source here.
config :rustler_precompiled, :force_build, partitioned_buffer: true
