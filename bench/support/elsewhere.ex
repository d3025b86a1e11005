defmodule Bench.Elsewhere do
  @moduledoc false
  # Runs a function of a module in bench/support in a new VM, which ends with the call.

  def run(file, module, function, args) do
    paths = Enum.flat_map(:code.get_path(), &[~c"-pa", &1])
    # Over standard input and output: neither VM needs a name.
    {:ok, peer, _node} = :peer.start_link(%{connection: :standard_io, args: paths})
    {:ok, _started} = :peer.call(peer, :application, :ensure_all_started, [:partitioned_buffer])

    :peer.call(peer, Code, :require_file, [file, __DIR__], 60_000)
    result = :peer.call(peer, module, function, args, 60_000)
    :peer.stop(peer)
    result
  end
end
