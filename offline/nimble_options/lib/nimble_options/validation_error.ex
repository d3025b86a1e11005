defmodule NimbleOptions.ValidationError do
  @moduledoc """
  Returned or raised when options do not match their schema.

    * `:key` - the option at fault (for unknown options: the list of them)
    * `:value` - its value, `nil` when it was missing
    * `:keys_path` - the options it is nested in, from the outside to the inside
    * `:message` - what is wrong
  """

  @type t() :: %__MODULE__{
          key: term(),
          value: term(),
          keys_path: [atom()],
          message: String.t()
        }

  defexception [:message, :key, :value, keys_path: []]

  @impl true
  def message(%__MODULE__{message: message, keys_path: []}), do: message

  def message(%__MODULE__{message: message, keys_path: keys_path}),
    do: "#{message} (in options #{inspect(keys_path)})"
end
