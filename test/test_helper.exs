# Before tests run at the same time: OTP 25 may keep processes waiting for ever that ask at the same moment for a module
# which runs code while it is loaded.
{:module, _native} = Code.ensure_loaded(PartitionedBuffer.Native)

ExUnit.start(exclude: [:soak])

# What the library holds is counted for the whole VM: here it is looked at after all tests. Modules that
# don't run beside others look at it by themselves as well.
ExUnit.after_suite(fn _results ->
  PartitionedBuffer.Alive.assert_alive(%{arenas: 0, entries: 0, bytes: 0})
end)
