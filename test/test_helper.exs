# Without the native library nothing works. Asked for by several tests at the same moment, OTP 25 would keep them waiting
# instead of telling that it can't be loaded.
{:module, _native} = Code.ensure_loaded(PartitionedBuffer.Native)

ExUnit.start(exclude: [:soak])

# What the library holds is counted for the whole VM: here it is looked at after all tests. Modules that
# don't run beside others look at it by themselves as well.
ExUnit.after_suite(fn _results ->
  PartitionedBuffer.Alive.assert_alive(%{arenas: 0, entries: 0, bytes: 0})
end)
