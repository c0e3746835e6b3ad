from aminoglot.cli import main

main()
