defmodule PartitionedBuffer.Property do
  @moduledoc false
  # Properties, by PropEr: `check/3` fails with the smallest counterexample that was found.

  import ExUnit.Assertions, only: [flunk: 1]

  @doc """
  Runs `property` with values of `generator`. It holds if it returns, whatever that is; a failed
  assertion or any other exception in it is a counterexample.
  """
  def check(generator, opts \\ [], property) do
    tests = Keyword.get(opts, :tests, 100)
    size = Keyword.get(opts, :size, 42)
    test = self()

    forall =
      :proper.forall(generator, fn value ->
        try do
          property.(value)
          true
        rescue
          error ->
            send(test, {__MODULE__, Exception.format(:error, error, __STACKTRACE__)})
            false
        end
      end)

    # PropEr draws its own figures on the screen unless it is told not to.
    result = :proper.quickcheck(forall, [:quiet, :long_result, numtests: tests, max_size: size])
    error = last_error("")

    case result do
      true -> :ok
      [value] -> flunk("counterexample:\n\n#{inspect(value, limit: 200)}\n\n#{error}")
      other -> flunk("the property could not be checked: #{inspect(other)}\n\n#{error}")
    end
  end

  # That of the counterexample: shrinking ends with it or with values that pass.
  defp last_error(error) do
    receive do
      {__MODULE__, error} -> last_error(error)
    after
      0 -> error
    end
  end
end
